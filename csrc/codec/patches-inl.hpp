// Patches of a tile of the resident form, put into its decoded symbols. Everything has internal linkage, since files of
// several instruction sets include this.
#pragma once

#include "tiles/little_endian.hpp"
#include "tiles/tile_view.hpp"

namespace tilepress {
namespace {

// Puts the patches of strip `strip` into its symbols, distances from `lowest` modulo 2^8. `next` is the first patch of
// the strip, and then of the strip behind.
inline void patch_strip(const TileView& tile, int strip, int lowest, uint8_t* symbols, int& next) {
    const int begin = strip * tile.shape.c * kFractalSymbols, end = begin + tile.shape.c * kFractalSymbols;
    for (; next < tile.patches.count; ++next) {
        const int position = load_u16(tile.patches.positions + 2 * next);
        if (position >= end) return;
        symbols[position - begin] = static_cast<uint8_t>(tile.patches.values[next] - lowest);
    }
}

// The first patch that does not lie before strip `strip`.
inline int first_patch(const TileView& tile, int strip) {
    const int begin = strip * tile.shape.c * kFractalSymbols;
    int first = 0;
    while (first < tile.patches.count && load_u16(tile.patches.positions + 2 * first) < begin) ++first;
    return first;
}

}  // namespace
}  // namespace tilepress
