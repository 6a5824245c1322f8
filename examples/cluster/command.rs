//! What an entry of the log says.

/// A command, as it is proposed and applied.
pub enum Command<'a> {
    Put {
        key: &'a [u8],
        value: &'a [u8],
    },
    /// Every replica drops its log below this index: so all of them keep the same, and whoever leads
    /// next can serve the same followers.
    Compact {
        first_index: u64,
    },
}

impl<'a> Command<'a> {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Command::Put { key, value } => {
                let mut bytes = Vec::with_capacity(5 + key.len() + value.len());
                bytes.push(b'p');
                bytes.extend((key.len() as u32).to_le_bytes());
                bytes.extend(*key);
                bytes.extend(*value);
                bytes
            }
            Command::Compact { first_index } => [&b"c"[..], &first_index.to_le_bytes()].concat(),
        }
    }

    pub fn decode(bytes: &'a [u8]) -> Option<Command<'a>> {
        let (kind, rest) = bytes.split_first()?;
        match kind {
            b'p' => {
                let (length, rest) = rest.split_first_chunk()?;
                let (key, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                Some(Command::Put { key, value })
            }
            b'c' => {
                let first_index = u64::from_le_bytes(rest.try_into().ok()?);
                Some(Command::Compact { first_index })
            }
            _ => None,
        }
    }
}
