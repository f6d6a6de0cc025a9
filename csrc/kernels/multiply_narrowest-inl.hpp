// Multiplying by a tile with the cheapest dot product that is exact for its symbols and the activations.
#pragma once

#include "kernels/multiply-inl.hpp"
#include "kernels/multiply_nibbles-inl.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// The extremes of a tile's values.
struct Extremes {
    int8_t low = 127, high = -128;

    explicit Extremes(const TileView& tile) {
        for (int l = 0; l < tile.levels; ++l) {
            if (tile.width[l] == 8) {
                include(tile.codes[l], static_cast<int>(tile.count[l]));
            } else {
                include(tile.table[l], tile.table_size(l));
            }
        }
    }

    void include(const uint8_t* bytes, int count) {
        for (int i = 0; i < count; ++i) {
            const int8_t value = static_cast<int8_t>(bytes[i]);
            low = value < low ? value : low;
            high = value > high ? value : high;
        }
    }
};

// Exact for symbols up to `range` and values up to `largest` in magnitude.
MultiplyStrip choose_dot(int range, int largest) {
    const int pair = 2 * range * largest;
    if (4 * pair <= 32767) return multiply_strip<NarrowDot<4>>;
    if (2 * pair <= 32767) return multiply_strip<NarrowDot<2>>;
    if (pair <= 32767) return multiply_strip<NarrowDot<1>>;
    return multiply_strip<WideDot>;
}

int multiply_narrowest(const TileView& tile, Workspace& workspace, const Activations& x, const uint8_t* ahead,
                       int32_t* sums) {
    if (x.tokens <= kNibbleTokens && holds_nibbles(tile)) {
        multiply_nibbles(tile, x, ahead, sums);
        add_patches(tile, x, sums);
        return -1;
    }
    const Extremes extremes(tile);
    const MultiplyStrip multiply = choose_dot(extremes.high - extremes.low, x.largest);
    return multiply_tile(tile, extremes.low, multiply, false, workspace, x, ahead, sums);
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
