//! How a call is cut into work: tiles of query rows of one (run, kv head), and for few rows with a long past, their blocks.
//!
//! Only who computes what is decided here. Every block's state is computed from nothing and merged in order of position,
//! so the result does not depend on the cut.

use std::cell::RefCell;

use super::tile::{Call, Scratch, Tile};
use super::{AttentionRun, AttentionSpec, KV_BLOCK, KvBlocks};
use crate::kernels::Kernels;
use crate::pool::{Disjoint, Pool};

/// Query rows of a tile: enough that widening a block of K and V to f32 is a small part of the work, few enough that
/// their scores and states stay in the cache.
const TILE_ROWS: usize = 48;

/// With fewer tiles than this for each thread, blocks are spread over the threads too.
const MIN_TILES_PER_THREAD: usize = 3;

/// One block of a tile, when blocks are spread over threads.
struct Part {
    tile: usize,
    block: usize,
}

/// Buffers of the thread that calls, kept between calls.
#[derive(Default)]
struct Plan {
    tiles: Vec<Tile>,
    parts: Vec<Part>,
    partials: Vec<f32>,
}

thread_local! {
    static PLAN: RefCell<Plan> = RefCell::default();
}

/// All runs of one layer. See `Kernels::attention`.
pub(crate) fn attention(
    kernels: Kernels,
    pool: &Pool,
    spec: &AttentionSpec,
    runs: &[AttentionRun],
    kv: &dyn KvBlocks,
    q: &[f32],
    out: &mut [f32],
) {
    super::check(spec, runs, kv, q, out);
    let mut plan = PLAN.take();
    plan.cut(spec, runs);
    let call = Call {
        kernels,
        spec,
        runs,
        kv,
        q,
        out: Disjoint::new(out),
    };
    if plan.tiles.len() < MIN_TILES_PER_THREAD * pool.n_threads()
        && plan.tiles.iter().any(|tile| tile.blocks.len() > 1)
    {
        plan.run_by_block(&call, pool);
    } else {
        plan.run_by_tile(&call, pool);
    }
    PLAN.set(plan);
}

impl Plan {
    fn cut(&mut self, spec: &AttentionSpec, runs: &[AttentionRun]) {
        self.tiles.clear();
        for (index, run) in runs.iter().enumerate() {
            let n_rows = run.rows.len() * spec.group();
            // The last tiles of a run see most positions: claimed first, they leave the small ones to even out the end.
            for first in (0..n_rows).step_by(TILE_ROWS).rev() {
                let rows = first..n_rows.min(first + TILE_ROWS);
                let pos = |row: usize| run.first_pos + row / spec.group();
                let blocks =
                    spec.live(pos(first)).start / KV_BLOCK..pos(rows.end - 1) / KV_BLOCK + 1;
                let tile = |kv_head| Tile {
                    run: index,
                    kv_head,
                    rows: rows.clone(),
                    blocks: blocks.clone(),
                };
                self.tiles.extend((0..spec.n_kv_heads).map(tile));
            }
        }
    }

    /// A thread computes all blocks of a tile and merges them as it goes.
    fn run_by_tile(&self, call: &Call<'_>, pool: &Pool) {
        pool.for_each(self.tiles.len(), |item| {
            let tile = &self.tiles[item];
            Scratch::with(|scratch| {
                let total = tile.fresh_states(call.spec, &mut scratch.total);
                for block in tile.blocks.clone() {
                    let part = tile.fresh_states(call.spec, &mut scratch.part);
                    tile.block(call, block, &mut scratch.inputs, part);
                    tile.merge(call, total, part);
                }
                tile.finish(call, total);
            });
        });
    }

    /// Threads compute single blocks of tiles; then the blocks of each tile are merged in order.
    fn run_by_block(&mut self, call: &Call<'_>, pool: &Pool) {
        self.parts.clear();
        for (tile, Tile { blocks, .. }) in self.tiles.iter().enumerate() {
            self.parts
                .extend(blocks.clone().map(|block| Part { tile, block }));
        }
        let stride = TILE_ROWS * Tile::state_len(call.spec);
        self.partials.resize(self.parts.len() * stride, 0.0);
        let (tiles, parts) = (&self.tiles, &self.parts);
        pool.for_each_chunk(&mut self.partials, stride, |item, states| {
            let tile = &tiles[parts[item].tile];
            let states = tile.fresh(call.spec, states);
            Scratch::with(|scratch| {
                tile.block(call, parts[item].block, &mut scratch.inputs, states)
            });
        });
        let partials = &self.partials;
        pool.for_each(tiles.len(), |item| {
            let first = parts.partition_point(|part| part.tile < item);
            let tile = &tiles[item];
            Scratch::with(|scratch| {
                let total = tile.fresh_states(call.spec, &mut scratch.total);
                let states = partials.chunks_exact(stride).skip(first);
                for part in states.take(tile.blocks.len()) {
                    tile.merge(call, total, part);
                }
                tile.finish(call, total);
            });
        });
    }
}
