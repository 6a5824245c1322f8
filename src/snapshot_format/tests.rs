//! The bytes are what the format page says, and nothing else is taken for a snapshot.

use std::io::Cursor;

use super::layout::Footer;
use super::*;
use crate::proto::Region;
use crate::snapshot_store::{Codec, Compression, SnapshotInfo, SnapshotMeta};
use crate::types::LogPosition;

const IDENTITY: u64 = 0x0102_0304_0506_0708;
const STAMP: Stamp = Stamp {
    identity: IDENTITY,
    created_ms: 0x1112_1314_1516,
};
const ALL: [Compression; 4] = [
    Compression::None,
    Compression::Gzip { level: 6 },
    Compression::Lz4,
    Compression::Zstd { level: 3 },
];

fn meta() -> SnapshotMeta {
    let region = Region::single(7, 3);
    SnapshotMeta {
        position: LogPosition::new(6, 42),
        conf_state: region.conf_state(),
        region,
    }
}

fn encode(content: &[u8], compression: Compression, block_bytes: u32) -> Vec<u8> {
    let encoder = Encoder::new(Vec::new(), meta(), compression, block_bytes, STAMP);
    let mut encoder = encoder.expect("small metadata");
    encoder.write(content).expect("a vector takes all");
    encoder.count_entries(5);
    let (bytes, info) = encoder.finish().expect("a vector takes all");
    assert_eq!(info.file_bytes, bytes.len() as u64);
    bytes
}

fn decode(bytes: &[u8]) -> Result<Vec<u8>> {
    let path = Path::new("test");
    let mut decoder = Decoder::new(Box::new(Cursor::new(bytes.to_vec())), path)?;
    assert_eq!(decoder.info_for_test().meta, meta());
    let mut content = Vec::new();
    (decoder.read_to_end(&mut content)).map_err(|e| from_stream("read", path, e))?;
    Ok(content)
}

impl Decoder {
    fn info_for_test(&self) -> &SnapshotInfo {
        crate::snapshot_store::SnapshotReader::info(self)
    }
}

fn detail(result: Result<Vec<u8>>) -> String {
    match result {
        Err(Error::Corruption { detail, .. }) => detail,
        Err(other) => panic!("expected corruption, got {other}"),
        Ok(content) => panic!("expected corruption, read {content:?}"),
    }
}

/// Compressible, and different in every block of 16 bytes.
fn sample(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|i| if i % 16 == 0 { (i / 16) as u8 } else { b'a' })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The header that every test here writes, but for codec byte and block bytes.
fn golden_header(codec: u8, block_bytes: u32) -> Vec<u8> {
    let mut bytes = b"peersnap\x02\x00\x00\x00".to_vec();
    bytes.extend([0x07, 0xc9, 0xc9, 0x49]); // CRC32C of the 12 bytes before
    bytes.push(codec);
    bytes.extend(block_bytes.to_le_bytes());
    bytes.extend([8, 7, 6, 5, 4, 3, 2, 1]); // the identity
    bytes.extend([34, 0, 0, 0]); // bytes of metadata
    bytes.extend([
        0x0a, 14, 0x08, 7, 0x22, 4, 0x08, 1, 0x10, 1, 0x2a, 4, 0x08, 3, 0x10, 3,
    ]); // region
    bytes.extend([0x10, 42, 0x18, 6]); // index, term
    bytes.extend([0x22, 3, 0x0a, 1, 3]); // voters
    bytes.extend([0x29, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0, 0]); // begun at, in ms
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn golden_footer(content: &[u8], block_count: u64) -> Vec<u8> {
    let mut bytes = 5u64.to_le_bytes().to_vec(); // entries
    bytes.extend((content.len() as u64).to_le_bytes());
    bytes.extend(block_count.to_le_bytes());
    bytes.extend(blake3::hash(content).as_bytes());
    let mut checked = IDENTITY.to_le_bytes().to_vec();
    checked.extend(&bytes);
    bytes.extend(crc32c::crc32c(&checked).to_le_bytes());
    bytes.extend(b"snap.end");
    bytes
}

fn golden_block(number: u64, raw_len: u32, stored: &[u8]) -> Vec<u8> {
    let mut lengths = raw_len.to_le_bytes().to_vec();
    lengths.extend((stored.len() as u32).to_le_bytes());
    let checked = [
        &IDENTITY.to_le_bytes(),
        &number.to_le_bytes(),
        lengths.as_slice(),
        stored,
    ];
    let mut bytes = lengths.clone();
    bytes.extend(crc32c::crc32c(&checked.concat()).to_le_bytes());
    bytes.extend(stored);
    bytes
}

#[test]
fn an_uncompressed_file_has_these_bytes() {
    let bytes = encode(b"hello world", Compression::None, 8);
    let expected = [
        golden_header(0, 8),
        golden_block(0, 8, b"hello wo"),
        golden_block(1, 3, b"rld"),
        golden_footer(b"hello world", 2),
    ];
    assert_eq!(hex(&bytes), hex(&expected.concat()));
    // The same, not computed but written down.
    assert_eq!(hex(&bytes), GOLDEN_NONE);
}

#[test]
fn an_lz4_file_has_these_bytes() {
    let bytes = encode(&[b'a'; 40], Compression::Lz4, 32);
    assert_eq!(hex(&bytes), GOLDEN_LZ4);
    assert_eq!(decode(&bytes).expect("as it was written"), [b'a'; 40]);
}

#[test]
fn a_zstd_or_gzip_file_has_this_head_and_foot() {
    let content = [b'a'; 40];
    let kinds = [
        (Compression::Zstd { level: 3 }, 2, GOLDEN_ZSTD),
        (Compression::Gzip { level: 6 }, 3, GOLDEN_GZIP),
    ];
    for (compression, codec, golden) in kinds {
        let bytes = encode(&content, compression, 64);
        let (header, footer) = (golden_header(codec, 64), golden_footer(&content, 1));
        assert_eq!(hex(&bytes[..header.len()]), hex(&header));
        assert_eq!(hex(&bytes[bytes.len() - FOOTER_BYTES..]), hex(&footer));
        // What is between depends on the version of the library; that of this one is still read.
        assert_eq!(decode(&unhex(golden)).expect("as it was written"), content);
    }
}

#[test]
fn files_of_version_1_are_still_read() {
    let kinds = [
        (GOLDEN_1_NONE, b"hello world".to_vec(), Codec::None),
        (GOLDEN_1_LZ4, vec![b'a'; 40], Codec::Lz4),
        (GOLDEN_1_ZSTD, vec![b'a'; 40], Codec::Zstd),
    ];
    for (golden, content, codec) in kinds {
        let bytes = unhex(golden);
        assert_eq!(decode(&bytes).expect("a file of version 1"), content);
        let file = Box::new(Cursor::new(bytes.clone()));
        let decoder = Decoder::new(file, Path::new("test")).expect("a file of version 1");
        let info = decoder.info_for_test();
        assert_eq!(info.file_bytes, bytes.len() as u64);
        assert_eq!((info.codec, info.entry_count), (codec, 0));
        assert_eq!(info.created, None, "nobody knows");
    }
}

#[test]
fn gzip_is_no_codec_of_version_1() {
    let mut bytes = unhex(GOLDEN_1_NONE);
    bytes[PREAMBLE_BYTES] = 3;
    let header_bytes = HEAD_BYTES + 25;
    let crc = crc32c::crc32c(&bytes[..header_bytes]);
    bytes[header_bytes..header_bytes + CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    assert!(detail(decode(&bytes)).contains("codec 3, expected 0 to 2"));
}

#[test]
fn what_the_file_says_beside_its_content_comes_back() {
    let bytes = encode(b"content", Compression::Gzip { level: 1 }, 16);
    let file = Box::new(Cursor::new(bytes));
    let decoder = Decoder::new(file, Path::new("test")).expect("as it was written");
    let info = decoder.info_for_test();
    assert_eq!((info.codec, info.entry_count), (Codec::Gzip, 5));
    assert_eq!(info.file_id, IDENTITY);
    let since = Duration::from_millis(STAMP.created_ms);
    assert_eq!(info.created, UNIX_EPOCH.checked_add(since));
}

#[test]
fn a_date_beyond_all_dates_is_no_date() {
    let stamp = Stamp {
        created_ms: u64::MAX,
        ..STAMP
    };
    let written = Encoder::new(Vec::new(), meta(), Compression::None, 16, stamp);
    let (bytes, info) = written.expect("metadata").finish().expect("a vector");
    let file = Box::new(Cursor::new(bytes));
    let decoder = Decoder::new(file, Path::new("test")).expect("as it was written");
    assert_eq!(decoder.info_for_test().created, info.created);
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

#[test]
fn content_comes_back_whatever_its_length_and_codec() {
    for compression in ALL {
        for length in [0, 1, 15, 16, 17, 31, 32, 33, 1000] {
            let content = sample(length);
            let bytes = encode(&content, compression, 16);
            assert_eq!(decode(&bytes).expect("as it was written"), content);
        }
    }
}

#[test]
fn every_flipped_bit_is_an_error() {
    for compression in ALL {
        let bytes = encode(&sample(200), compression, 64);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let result = decode(&flipped);
            assert!(result.is_err(), "bit {bit} of {compression:?}");
        }
    }
}

#[test]
fn every_truncation_and_every_extension_is_an_error() {
    for compression in ALL {
        let mut bytes = encode(&sample(200), compression, 64);
        for length in 0..bytes.len() {
            detail(decode(&bytes[..length]));
        }
        bytes.push(0);
        detail(decode(&bytes));
    }
}

#[test]
fn swapped_blocks_are_noticed() {
    let content = sample(48);
    let mut bytes = encode(&content, Compression::None, 16);
    let (start, block) = (golden_header(0, 16).len(), BLOCK_HEAD_BYTES + 16);
    let (first, second) = bytes[start..start + 2 * block].split_at_mut(block);
    first.swap_with_slice(second);
    let found = detail(decode(&bytes));
    assert!(
        found.starts_with(&format!("block 0 at offset {start}: crc")),
        "{found}"
    );
}

#[test]
fn a_block_of_another_file_is_noticed() {
    let content = sample(16);
    let mut bytes = encode(&content, Compression::None, 16);
    let other_stamp = Stamp {
        identity: IDENTITY + 1,
        ..STAMP
    };
    let other = Encoder::new(Vec::new(), meta(), Compression::None, 16, other_stamp);
    let mut other = other.expect("small metadata");
    other.write(&content).expect("a vector takes all");
    let (other, _) = other.finish().expect("a vector takes all");
    let start = golden_header(0, 16).len();
    bytes[start..start + BLOCK_HEAD_BYTES + 16]
        .copy_from_slice(&other[start..start + BLOCK_HEAD_BYTES + 16]);
    assert!(detail(decode(&bytes)).contains("block 0"));
}

#[test]
fn a_newer_version_is_unsupported_and_not_corrupt() {
    let mut bytes = encode(b"content", Compression::None, 16);
    bytes[8..12].copy_from_slice(&3u32.to_le_bytes());
    assert!(
        detail(decode(&bytes)).contains("version"),
        "a flipped bit is no newer version"
    );
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    // Nothing behind the preamble is looked at.
    bytes.truncate(PREAMBLE_BYTES);
    let result = decode(&bytes);
    assert!(matches!(
        result,
        Err(Error::UnsupportedVersion { got: 3, max: 2, .. })
    ));
}

/// A file of one block whose head says what the test wants, with every checksum right.
fn hostile(
    raw_len: u32,
    stored: &[u8],
    content_bytes: u64,
    block_bytes: u32,
    codec: u8,
) -> Vec<u8> {
    let mut bytes = golden_header(codec, block_bytes);
    bytes.extend(golden_block(0, raw_len, stored));
    let footer = Footer {
        entry_count: 0,
        content_bytes,
        block_count: content_bytes.div_ceil(block_bytes.max(1).into()),
        digest: [0; 32],
    };
    bytes.extend(footer.encode(IDENTITY));
    bytes
}

#[test]
fn lengths_that_lie_are_refused_before_memory_is_taken() {
    let raw = hostile(u32::MAX, b"x", u64::MAX, 16, 0);
    assert!(detail(decode(&raw)).contains("4294967295 bytes, expected 16"));
    let blocks = hostile(16, b"x", 16, u32::MAX, 0);
    assert!(detail(decode(&blocks)).contains("expected 1 to 1048576"));
    let none = hostile(16, b"x", 16, 0, 0);
    assert!(detail(decode(&none)).contains("blocks of 0 bytes"));
    let mut stored = hostile(16, &[0; 16], 16, 16, 0);
    let at = golden_header(0, 16).len() + 4;
    stored[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(detail(decode(&stored)).contains("stored in 4294967295 bytes, expected 1 to 16"));
    let mut meta = golden_header(0, 16);
    meta[29..33].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(detail(decode(&meta)).contains("expected at most 262144"));
}

#[test]
fn a_decompression_bomb_stops_at_the_length_of_its_block() {
    let zeros = vec![0; 16 << 20];
    let bomb = zstd::bulk::compress(&zeros, 3).expect("zeros");
    assert!(bomb.len() < 64 << 10);
    let bytes = hostile(64 << 10, &bomb, 64 << 10, 64 << 10, 2);
    assert!(detail(decode(&bytes)).starts_with("block 0"));
    let bomb = lz4_flex::block::compress(&zeros[..1 << 20]);
    let bytes = hostile(64 << 10, &bomb, 64 << 10, 64 << 10, 1);
    assert!(detail(decode(&bytes)).starts_with("block 0"));
    let bomb = gzip(&zeros);
    assert!(bomb.len() < 64 << 10);
    let bytes = hostile(64 << 10, &bomb, 64 << 10, 64 << 10, 3);
    let found = detail(decode(&bytes));
    assert!(found.contains("more than 65536 bytes"), "{found}");
}

fn gzip(raw: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    std::io::Write::write_all(&mut gzip, raw).expect("a vector takes all");
    gzip.finish().expect("a vector takes all")
}

#[test]
fn a_gzip_block_is_one_whole_member_and_nothing_more() {
    let whole = gzip(&[7; 100]);
    let found = |stored: &[u8]| detail(decode(&hostile(100, stored, 100, 128, 3)));
    // Right but for the digest, which `hostile` leaves out.
    assert!(found(&whole).contains("digest"));
    let longer = [&whole[..], b"x"].concat();
    assert!(found(&longer).contains("1 bytes behind the end"));
    let twice = [&whole[..], &whole[..]].concat();
    assert!(found(&twice).contains("bytes behind the end"));
    for length in 1..whole.len() {
        assert!(found(&whole[..length]).starts_with("block 0"), "{length}");
    }
    let mut own_checksum = whole.clone();
    own_checksum[whole.len() - 8] ^= 1;
    assert!(found(&own_checksum).starts_with("block 0"));
}

#[test]
fn a_compressed_block_that_is_too_short_is_refused() {
    let short = zstd::bulk::compress(&[0; 100], 3).expect("zeros");
    let bytes = hostile(128, &short, 128, 128, 2);
    assert!(detail(decode(&bytes)).contains("100 bytes when decompressed, expected 128"));
    let bytes = hostile(128, &short, 128, 128, 0);
    assert!(detail(decode(&bytes)).contains("without compression"));
}

#[test]
fn blocks_that_are_right_but_not_the_content_fail_the_digest_before_the_last_comes_out() {
    let mut bytes = golden_header(0, 16);
    bytes.extend(golden_block(0, 16, &[1; 16]));
    bytes.extend(golden_block(1, 4, &[2; 4]));
    bytes.extend(golden_footer(&[1; 20], 2));
    let mut decoder =
        Decoder::new(Box::new(Cursor::new(bytes)), Path::new("test")).expect("right ends");
    let mut first = [0; 16];
    Read::read_exact(&mut decoder, &mut first).expect("the first block");
    for _ in 0..2 {
        let error = decoder.read(&mut [0; 4]).expect_err("the digest is wrong");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }
}

#[test]
fn what_is_no_snapshot_at_all_is_refused() {
    let mut state = 1u64;
    for length in 0..300 {
        let mut noise = Vec::new();
        for _ in 0..length {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            noise.push((state >> 33) as u8);
        }
        detail(decode(&noise));
        let behind_preamble = [&golden_header(0, 16)[..PREAMBLE_BYTES], &noise].concat();
        detail(decode(&behind_preamble));
        let behind_header = [golden_header(0, 16), noise].concat();
        detail(decode(&behind_header));
    }
}

#[test]
fn metadata_larger_than_a_reader_takes_is_not_written() {
    let mut meta = meta();
    meta.region.start_key = vec![0; META_BYTES_MAX as usize];
    let encoder = Encoder::new(Vec::new(), meta, Compression::None, 16, STAMP);
    assert!(matches!(
        encoder.map(drop),
        Err(Error::InvalidArgument {
            region: RegionId(7),
            ..
        })
    ));
}

#[test]
fn sequences_follow_the_last_and_end_with_an_error() {
    let key = |sequence| SnapshotKey {
        region: RegionId(1),
        id: SnapshotId {
            term: 2,
            index: 3,
            sequence,
        },
    };
    let mut taken = BTreeMap::new();
    assert_eq!(free_key(&taken, &key(9)).expect("free"), key(0));
    taken.insert(key(0), ());
    taken.insert(key(4), ());
    assert_eq!(free_key(&taken, &key(0)).expect("free"), key(5));
    taken.insert(key(u64::MAX), ());
    assert!(matches!(
        free_key(&taken, &key(0)),
        Err(Error::SnapshotRefused { .. })
    ));
}

const GOLDEN_1_NONE: &str = "\
    70656572736e6170010000003e40eb2b00080000000807060504030201190000000a0e08072204080110012a\
    0408031003102a180622030a0103d5dab46308000000080000006b32654368656c6c6f20776f030000000300\
    000050afeb2a726c640b000000000000000200000000000000d74981efa70a0c880b8d8c1985d075dbcbf679\
    b99a5f9914e5aaf96b831a9e24f6cbd333736e61702e656e64";
const GOLDEN_1_LZ4: &str = "\
    70656572736e6170010000003e40eb2b01200000000807060504030201190000000a0e08072204080110012a\
    0408031003102a180622030a0103374f0f37200000000c00000031a0139b1f61010006606161616161610800\
    00000800000092ae6add616161616161616128000000000000000200000000000000c8747764088f4329162a\
    ae1e5d5badac57a365d0d459bc1de9908c6ddbb411ac9db73778736e61702e656e64";
const GOLDEN_1_ZSTD: &str = "\
    70656572736e6170010000003e40eb2b02400000000807060504030201190000000a0e08072204080110012a\
    0408031003102a180622030a01033f0018a828000000110000009d2ed24c28b52ffd20284500001061610100\
    1f800528000000000000000100000000000000c8747764088f4329162aae1e5d5badac57a365d0d459bc1de9\
    908c6ddbb411ac11fe9b1b736e61702e656e64";
const GOLDEN_NONE: &str = "\
    70656572736e61700200000007c9c94900080000000807060504030201220000000a0e08072204080110012a\
    0408031003102a180622030a010329161514131211000034e153f308000000080000006b32654368656c6c6f\
    20776f030000000300000050afeb2a726c6405000000000000000b000000000000000200000000000000d749\
    81efa70a0c880b8d8c1985d075dbcbf679b99a5f9914e5aaf96b831a9e24ce286946736e61702e656e64";
const GOLDEN_LZ4: &str = "\
    70656572736e61700200000007c9c94901200000000807060504030201220000000a0e08072204080110012a\
    0408031003102a180622030a010329161514131211000051e39285200000000c00000031a0139b1f61010006\
    60616161616161080000000800000092ae6add61616161616161610500000000000000280000000000000002\
    00000000000000c8747764088f4329162aae1e5d5badac57a365d0d459bc1de9908c6ddbb411aca5548d0d73\
    6e61702e656e64";
const GOLDEN_ZSTD: &str = "\
    70656572736e61700200000007c9c94902400000000807060504030201220000000a0e08072204080110012a\
    0408031003102a180622030a01032916151413121100005ff2762428000000110000009d2ed24c28b52ffd20\
    2845000010616101001f8005050000000000000028000000000000000100000000000000c8747764088f4329\
    162aae1e5d5badac57a365d0d459bc1de9908c6ddbb411ac291d216e736e61702e656e64";
const GOLDEN_GZIP: &str = "\
    70656572736e61700200000007c9c94903400000000807060504030201220000000a0e08072204080110012a\
    0408031003102a180622030a0103291615141312110000d9c85e1d28000000180000000e12f9bc1f8b080000\
    00000000ff4b4c240e0000258a5bc928000000050000000000000028000000000000000100000000000000c8\
    747764088f4329162aae1e5d5badac57a365d0d459bc1de9908c6ddbb411ac291d216e736e61702e656e64";
