//! A list that grows without ever being moved: behind its first chunk it takes no more memory than its
//! elements do, and gives it back at both ends. Never does I/O.

/// How many elements a chunk has. Large enough for its pointer not to matter, and small enough for the
/// last one's reserve not to.
const CHUNK: usize = 128;

/// Invariant: every chunk but the last is full, and the last is not.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chunks<T> {
    full: Vec<Box<[T; CHUNK]>>,
    last: Vec<T>,
}

impl<T: Copy> Chunks<T> {
    /// An empty list, soon of `capacity` elements.
    pub fn with_capacity(capacity: usize) -> Self {
        Chunks {
            full: Vec::with_capacity(capacity / CHUNK),
            last: Vec::with_capacity(capacity.min(CHUNK)),
        }
    }

    pub fn len(&self) -> usize {
        self.full.len() * CHUNK + self.last.len()
    }

    /// Returns how much more memory it takes.
    pub fn push(&mut self, element: T) -> usize {
        if self.last.len() < self.last.capacity().min(CHUNK - 1) {
            self.last.push(element);
            return 0;
        }
        let before = self.memory_bytes();
        if self.last.len() == self.last.capacity() {
            self.grow();
        }
        self.last.push(element);
        if self.last.len() == CHUNK {
            self.close();
        }
        self.memory_bytes() - before
    }

    /// A short list stays small; a long one gets its chunks in one piece.
    fn grow(&mut self) {
        let capacity = match self.full.is_empty() {
            true => (self.last.len() * 2).clamp(4, CHUNK),
            false => CHUNK,
        };
        self.last.reserve_exact(capacity - self.last.len());
    }

    /// The last chunk has become full.
    fn close(&mut self) {
        let chunk = std::mem::take(&mut self.last).into_boxed_slice();
        let chunk = chunk.try_into().ok();
        self.full.push(chunk.expect("it has as many as a chunk"));
    }

    /// The element at `position`, which is in the list.
    pub fn at(&self, position: usize) -> T {
        match self.full.get(position / CHUNK) {
            Some(chunk) => chunk[position % CHUNK],
            None => self.last[position - self.full.len() * CHUNK],
        }
    }

    /// The first position whose element `is_before` denies. It says so of all behind it as well.
    pub fn partition_point(&self, is_before: impl Fn(T) -> bool) -> usize {
        let chunk = self
            .full
            .partition_point(|chunk| is_before(chunk[CHUNK - 1]));
        let elements = self
            .full
            .get(chunk)
            .map_or(&self.last[..], |chunk| &chunk[..]);
        chunk * CHUNK + elements.partition_point(|element| is_before(*element))
    }

    /// Leaves the first `count`, of at least as many.
    pub fn truncate(&mut self, count: usize) {
        let whole = count / CHUNK;
        if whole < self.full.len() {
            let cut = self.full.swap_remove(whole);
            self.full.truncate(whole);
            self.last = Vec::from(cut as Box<[T]>);
        }
        self.last.truncate(count % CHUNK);
    }

    /// Lets go of the first elements, of `count` as many as cost little: whole chunks, and of the last
    /// one only once they are the most of it, so that cutting one by one does not move all others each
    /// time. Returns how many are gone, which lists of the same length agree on.
    pub fn cut_front(&mut self, count: usize) -> usize {
        let whole = (count / CHUNK).min(self.full.len());
        if whole > 0 {
            self.full.drain(..whole);
            self.full.shrink_to(self.full.len() * 2);
        }
        let rest = count - whole * CHUNK;
        let is_most = self.full.is_empty() && rest * 2 > self.last.len();
        if !is_most {
            return whole * CHUNK;
        }
        self.last.drain(..rest);
        self.last.shrink_to(self.last.len() * 2);
        count
    }

    pub fn shrink_to_fit(&mut self) {
        self.full.shrink_to_fit();
        self.last.shrink_to_fit();
    }

    /// What it has taken beside itself.
    pub fn memory_bytes(&self) -> usize {
        let elements = self.full.len() * CHUNK + self.last.capacity();
        self.full.capacity() * size_of::<usize>() + elements * size_of::<T>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Change {
        Push(usize),
        /// Both in thousandths of what there is.
        Truncate(usize),
        CutFront(usize),
        ShrinkToFit,
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            4 => (1usize..300).prop_map(Change::Push),
            1 => (0usize..1001).prop_map(Change::Truncate),
            2 => (0usize..1001).prop_map(Change::CutFront),
            2 => (0usize..30).prop_map(Change::CutFront),
            1 => Just(Change::ShrinkToFit),
        ]
    }

    fn check(chunks: &Chunks<u32>, model: &[u32]) {
        let found: Vec<u32> = (0..chunks.len()).map(|at| chunks.at(at)).collect();
        assert_eq!(found, model);
        assert_eq!(chunks.full.len(), model.len() / CHUNK);
        assert!(chunks.last.capacity() <= CHUNK);
        let (low, high) = (model.first(), model.last());
        for element in low.map_or(0, |low| low - 1)..high.map_or(2, |high| high + 2) {
            let expected = model.partition_point(|other| *other < element);
            assert_eq!(chunks.partition_point(|other| other < element), expected);
        }
    }

    proptest! {
        #[test]
        fn it_is_a_list(changes in prop::collection::vec(change(), 1..40)) {
            let (mut chunks, mut model) = (Chunks::with_capacity(1), Vec::new());
            let mut next = 1;
            for change in changes {
                match change {
                    Change::Push(count) => for _ in 0..count {
                        chunks.push(next);
                        model.push(next);
                        next += 2;
                    },
                    Change::Truncate(share) => {
                        let count = model.len() * share / 1000;
                        chunks.truncate(count);
                        model.truncate(count);
                    }
                    Change::CutFront(share) => {
                        let count = model.len() * share / 1000;
                        let whole = chunks.full.len() * CHUNK;
                        let gone = chunks.cut_front(count);
                        prop_assert!(gone <= count && count - gone < CHUNK);
                        // What costs little to let go of is gone.
                        let rest = count - gone;
                        prop_assert!(!chunks.full.is_empty() || rest * 2 <= chunks.len());
                        if gone > whole {
                            // No more was moved than is gone, and none of it is held in reserve.
                            prop_assert!(chunks.len() < gone - whole);
                            prop_assert!(chunks.last.capacity() <= 2 * chunks.len());
                        }
                        model.drain(..gone);
                    }
                    Change::ShrinkToFit => {
                        chunks.shrink_to_fit();
                        let pointers = chunks.full.len() * size_of::<usize>();
                        prop_assert_eq!(chunks.memory_bytes(), model.len() * 4 + pointers);
                    }
                }
                check(&chunks, &model);
            }
        }
    }

    #[test]
    fn it_takes_what_its_elements_take_and_a_few_percent() {
        let mut chunks = Chunks::with_capacity(1);
        chunks.push(0u64);
        assert_eq!(chunks.memory_bytes(), 8);
        for count in 2..100_000 {
            chunks.push(count as u64);
            let reserve = (count + 2).min(CHUNK) * 8 + 32;
            assert!(chunks.memory_bytes() <= count * 8 * 102 / 100 + reserve);
        }
        // What was cut is given back chunk by chunk.
        for gone in 0..99_000 {
            chunks.cut_front(1 + gone % CHUNK);
            assert!(chunks.memory_bytes() <= (99_999 - gone) * 8 * 102 / 100 + CHUNK * 16);
        }
    }
}
