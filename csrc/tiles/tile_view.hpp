// One compressed tile, parsed and checked (docs/reference/bitstream.md, "Index entry" and "Tile").
#pragma once

#include <cstdint>

#include "tiles/geometry.hpp"

namespace tilepress {

constexpr int kMaxLevels = 4;
constexpr uint64_t kOffsetMask = 0xffffffffffff;  // of an index entry

enum class TileError : uint8_t {
    none,
    width_out_of_range,
    level_gap,
    no_level,
    escape_width,
    offset_unaligned,
    past_end,
    ends_elsewhere,
    sync_falls,
    sync_jumps,
    count_grows,
    patches_fall,
    patch_outside,
};

// Values that the codes of a tile of the resident form do not hold: the symbol at a position is `values[i]`, where the
// codes say the end of the table that is nearest to it.
struct Patches {
    const uint8_t* positions = nullptr;  // 16-bit numbers of symbols, rising
    const int8_t* values = nullptr;
    int count = 0;
};

// What is wrong, as a phrase that completes "tile (i, j): ...". Static storage.
const char* describe(TileError error);

// Pointers lie inside the weight bytes; every block that a level's count calls for is whole and inside them. Numbers
// are copies: bytes that change underneath later change decoded values, never a bound.
struct TileView {
    TileShape shape;
    int levels;                        // 1 to 4; the last is terminal, all others have an escape
    int width[kMaxLevels];             // bits a code
    uint32_t count[kMaxLevels];        // codes; level 0 has one a symbol, and none exceeds the level before
    const uint8_t* codes[kMaxLevels];  // level 0: 64 * width bytes a fractal, the others 16 * width bytes for 128 codes
    const uint8_t* table[kMaxLevels];  // 2^width values, less one under an escape; null for width 8
    uint16_t sync[kMaxTileFractals];   // level-0 escapes in strips 0 to s, s < shape.r; unset when levels is 1
    uint64_t offset, bytes;            // where the tile lies in weight: offset is a multiple of 64, so is bytes
    Patches patches;

    int escape(int level) const { return level + 1 < levels ? (1 << width[level]) - 1 : -1; }
    int table_size(int level) const { return width[level] == 8 ? 0 : (1 << width[level]) - (level + 1 < levels); }
};

// Takes offset and widths from an index entry and checks them; the tile itself is not touched.
TileError parse_entry(uint64_t entry, uint64_t size, TileView& view);

// Parses the tile of `shape` that `entry` of the index describes in the `size` bytes at `weight`. Never throws, never
// reads outside them. `view` is meaningful only when none is returned.
TileError parse_tile(const uint8_t* weight, uint64_t size, uint64_t entry, TileShape shape, TileView& view);

}  // namespace tilepress
