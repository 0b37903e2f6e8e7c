//! The paged KV cache of a span of layers.
//!
//! A page holds the keys and values of 128 positions of one sequence, for all layers of a class. There are two classes:
//! layers that see everything, and sliding-window layers, whose pages are given back once they leave the window. Pages
//! are allocated when first used and never more than the limit that the memory budget counted.

use potluck_kernels::{KV_BLOCK, KvBlock, KvBlocks, KvPage, KvSlice, KvSliceMut, KvType, kv_store};

/// Shape of the cache of a span.
#[derive(Debug, Clone)]
pub(crate) struct KvShape {
    pub kv_type: KvType,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// One a layer of the span: whether it sees only the window.
    pub sliding: Vec<bool>,
    /// Positions that a query of a sliding layer sees.
    pub window: usize,
    /// Most pages of each class.
    pub max_full_pages: usize,
    pub max_sliding_pages: usize,
}

impl KvShape {
    /// Bytes of the whole cache when every page is in use. Sizes may come from a peer, so this does not overflow.
    pub fn n_bytes(&self) -> u64 {
        let block = KvType::block_elements(self.n_kv_heads, self.head_dim);
        let block = self.kv_type.n_bytes(block as u128);
        let n_sliding = self.sliding.iter().filter(|sliding| **sliding).count() as u128;
        let n_full = self.sliding.len() as u128 - n_sliding;
        let n_blocks =
            n_full * self.max_full_pages as u128 + n_sliding * self.max_sliding_pages as u128;
        u64::try_from(block * n_blocks).unwrap_or(u64::MAX)
    }
}

/// No page is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvFull;

/// The pages of one sequence. Entry `i` is positions `128 i ..`.
#[derive(Debug, Default)]
pub(crate) struct KvTable {
    full: Vec<Option<usize>>,
    sliding: Vec<Option<usize>>,
}

/// The cache.
pub(crate) struct KvCache {
    shape: KvShape,
    /// For each layer its class and its index within it.
    places: Vec<(Class, usize)>,
    full: PagePool,
    sliding: PagePool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Full,
    Sliding,
}

impl KvCache {
    pub fn new(shape: KvShape) -> Self {
        let mut counts = [0, 0];
        let places = shape.sliding.iter().map(|&sliding| {
            let class = if sliding { Class::Sliding } else { Class::Full };
            let count = &mut counts[usize::from(sliding)];
            *count += 1;
            (class, *count - 1)
        });
        let places = places.collect();
        let block = KvType::block_elements(shape.n_kv_heads, shape.head_dim);
        KvCache {
            places,
            full: PagePool::new(shape.kv_type, block, counts[0], shape.max_full_pages),
            sliding: PagePool::new(shape.kv_type, block, counts[1], shape.max_sliding_pages),
            shape,
        }
    }

    /// Gives a sequence the pages that positions up to `len` need. On failure it keeps what it has.
    pub fn reserve(&mut self, table: &mut KvTable, len: usize) -> Result<(), KvFull> {
        let n_pages = len.div_ceil(KV_BLOCK);
        self.full.extend(&mut table.full, n_pages)?;
        self.sliding.extend(&mut table.sliding, n_pages)
    }

    /// Gives back the pages of sliding layers that no position from `len` on can see.
    pub fn drop_left_of_window(&mut self, table: &mut KvTable, len: usize) {
        let first_visible = (len + 1).saturating_sub(self.shape.window);
        let n_gone = (first_visible / KV_BLOCK).min(table.sliding.len());
        for page in &mut table.sliding[..n_gone] {
            self.sliding.free.extend(page.take());
        }
    }

    /// Forgets positions from `len` on. False if the window of the position before them is already gone.
    pub fn truncate(&mut self, table: &mut KvTable, len: usize) -> bool {
        let n_pages = len.div_ceil(KV_BLOCK);
        for (pool, pages) in [
            (&mut self.full, &mut table.full),
            (&mut self.sliding, &mut table.sliding),
        ] {
            let kept = n_pages.min(pages.len());
            pool.free.extend(pages.drain(kept..).flatten());
        }
        let first_visible = (len + 1).saturating_sub(self.shape.window) / KV_BLOCK;
        self.sliding.n_layers == 0
            || table
                .sliding
                .iter()
                .skip(first_visible)
                .all(Option::is_some)
    }

    /// Gives back everything a sequence holds.
    pub fn release(&mut self, table: KvTable) {
        self.full.free.extend(table.full.into_iter().flatten());
        self.sliding
            .free
            .extend(table.sliding.into_iter().flatten());
    }

    /// Stores the keys and values of consecutive positions: `k` and `v` are `(n_tokens, n_kv_heads * head_dim)`.
    pub fn store(&mut self, table: &KvTable, layer: usize, first_pos: usize, k: &[f32], v: &[f32]) {
        let width = self.shape.n_kv_heads * self.shape.head_dim;
        let (class, index) = self.places[layer];
        let (pool, pages) = match class {
            Class::Full => (&mut self.full, &table.full),
            Class::Sliding => (&mut self.sliding, &table.sliding),
        };
        let rows = k.chunks_exact(width).zip(v.chunks_exact(width));
        for (pos, (k, v)) in (first_pos..).zip(rows) {
            let page = pages[pos / KV_BLOCK].expect("reserved before the step");
            kv_store(
                pool.block_mut(page, index),
                self.shape.head_dim,
                pos % KV_BLOCK,
                k,
                v,
            );
        }
    }

    /// The caches of some sequences in one layer.
    pub fn layer<'a>(&'a self, tables: &'a [&'a KvTable], layer: usize) -> KvLayer<'a> {
        KvLayer {
            cache: self,
            tables,
            layer,
        }
    }

    /// Bytes of the pages that were ever needed; they are kept for the next sequence.
    pub fn held_bytes(&self) -> u64 {
        self.full.held_bytes() + self.sliding.held_bytes()
    }

    /// Pages in use, over both classes.
    #[cfg(test)]
    pub fn n_used(&self) -> usize {
        self.full.n_used() + self.sliding.n_used()
    }
}

/// What attention reads: one layer of some sequences.
pub(crate) struct KvLayer<'a> {
    cache: &'a KvCache,
    tables: &'a [&'a KvTable],
    layer: usize,
}

impl KvBlocks for KvLayer<'_> {
    fn block(&self, sequence: usize, index: usize) -> KvBlock<'_> {
        let table = self.tables[sequence];
        let (class, place) = self.cache.places[self.layer];
        let (pool, pages) = match class {
            Class::Full => (&self.cache.full, &table.full),
            Class::Sliding => (&self.cache.sliding, &table.sliding),
        };
        match pages.get(index).copied().flatten() {
            Some(page) => KvBlock::Present(pool.block(page, place)),
            None => KvBlock::Missing,
        }
    }
}

/// Pages of one class. Numbers of pages in use are in the tables of sequences; the rest are in `free`.
struct PagePool {
    kv_type: KvType,
    block_elements: usize,
    n_layers: usize,
    max_pages: usize,
    pages: Vec<KvPage>,
    free: Vec<usize>,
}

impl PagePool {
    fn new(kv_type: KvType, block_elements: usize, n_layers: usize, max_pages: usize) -> Self {
        PagePool {
            kv_type,
            block_elements,
            n_layers,
            max_pages,
            pages: Vec::new(),
            free: Vec::new(),
        }
    }

    /// A class without layers needs no pages; its tables stay empty.
    fn extend(&mut self, pages: &mut Vec<Option<usize>>, n_pages: usize) -> Result<(), KvFull> {
        if self.n_layers == 0 {
            return Ok(());
        }
        let n_missing = n_pages.saturating_sub(pages.len());
        if n_missing > self.free.len() + (self.max_pages - self.pages.len()) {
            return Err(KvFull);
        }
        for _ in 0..n_missing {
            pages.push(Some(self.take()));
        }
        Ok(())
    }

    fn take(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            let len = self.n_layers * self.block_elements;
            self.pages.push(KvPage::new(self.kv_type, len));
            self.pages.len() - 1
        })
    }

    fn held_bytes(&self) -> u64 {
        let n_elements = self.pages.len() * self.n_layers * self.block_elements;
        self.kv_type.n_bytes(n_elements as u128) as u64
    }

    #[cfg(test)]
    fn n_used(&self) -> usize {
        self.pages.len() - self.free.len()
    }

    fn block(&self, page: usize, index: usize) -> KvSlice<'_> {
        let range = index * self.block_elements..(index + 1) * self.block_elements;
        self.pages[page].slice(range)
    }

    fn block_mut(&mut self, page: usize, index: usize) -> KvSliceMut<'_> {
        let range = index * self.block_elements..(index + 1) * self.block_elements;
        self.pages[page].slice_mut(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(max_full_pages: usize) -> KvCache {
        KvCache::new(KvShape {
            kv_type: KvType::F16,
            n_kv_heads: 1,
            head_dim: 32,
            sliding: vec![true, false, true],
            window: 200,
            max_full_pages,
            max_sliding_pages: 4,
        })
    }

    #[test]
    fn pages_leave_with_the_window_and_come_back() {
        let mut cache = cache(8);
        let mut table = KvTable::default();
        cache.reserve(&mut table, 512).unwrap();
        assert_eq!(cache.n_used(), 8);
        cache.drop_left_of_window(&mut table, 512);
        // Position 512 sees 313 and later: the pages of 0..256 go.
        assert_eq!(cache.n_used(), 6);
        let block = |layer| cache.layer(&[&table], layer).block(0, 1).is_missing();
        assert_eq!([block(0), block(1)], [true, false]);
        cache.reserve(&mut table, 700).unwrap();
        cache.release(table);
        assert_eq!(cache.n_used(), 0);
    }

    #[test]
    fn the_limit_holds_and_a_refusal_takes_nothing() {
        let mut cache = cache(2);
        let mut table = KvTable::default();
        cache.reserve(&mut table, 256).unwrap();
        let used = cache.n_used();
        assert_eq!(cache.reserve(&mut table, 257), Err(KvFull));
        assert_eq!(cache.n_used(), used);
    }

    #[test]
    fn truncation_knows_when_the_window_is_gone() {
        let mut cache = cache(8);
        let mut table = KvTable::default();
        cache.reserve(&mut table, 512).unwrap();
        cache.drop_left_of_window(&mut table, 512);
        assert!(cache.truncate(&mut table, 500));
        assert!(!cache.truncate(&mut table, 300));
    }
}
