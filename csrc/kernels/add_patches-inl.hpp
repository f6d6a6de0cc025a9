// Patches of a tile of the resident form, added to the sums of its codes. Everything has internal linkage, since files
// of several instruction sets include this.
#pragma once

#include "simd/kernels.hpp"
#include "tiles/little_endian.hpp"

namespace tilepress {
namespace {

// sums: [shape.r][tokens][16].
inline void add_patches(const TileView& tile, const Activations& x, int32_t* sums) {
    if (tile.patches.count == 0 || tile.table_size(0) == 0) return;
    const int8_t* const table = reinterpret_cast<const int8_t*>(tile.table[0]);
    const int low = table[0], high = table[tile.table_size(0) - 1];
    const int columns = kFractalColumns * tile.shape.c, symbols = kFractalRows * columns;
    int strip_end = symbols;
    for (int patch = 0; patch < tile.patches.count; ++patch) {
        const int position = load_u16(tile.patches.positions + 2 * patch), value = tile.patches.values[patch];
        for (; position >= strip_end; strip_end += symbols) sums += kFractalRows * x.tokens;
        const int place = position - (strip_end - symbols), row = place % 64 / 4;
        const int column = place / 64 * 4 + place % 4;
        const int difference = value - (value < low ? low : high);
        const int8_t* const values = x.values + column;
        int32_t* const out = sums + row;
        for (int t = 0; t < x.tokens; ++t) {
            int32_t& sum = out[kFractalRows * t];
            sum = static_cast<int32_t>(static_cast<uint32_t>(sum) +
                                       static_cast<uint32_t>(difference * values[columns * t]));
        }
    }
}

}  // namespace
}  // namespace tilepress
