// What is compiled once for each instruction set: decoding a tile, and multiplying by it.
#pragma once

#include <cstdint>

#include "tile_view.hpp"

namespace tilepress {

// Buffers of one thread, for the largest tile there can be: no byte pattern asks for more. Vectors are stored and
// loaded whole, hence the slack.
struct Workspace {
    static constexpr int kSlack = 64;
    alignas(64) uint8_t levels[2][kMaxTileSymbols + kSlack];
    alignas(64) uint8_t symbols[kMaxTileSymbols];
};

// Quantized activations in the columns of one tile.
struct Activations {
    const int8_t* values;   // [tokens, 32 * shape.c], zero where the matrix has no column
    const int32_t* totals;  // [tokens], sums of the above
    int tokens;
    int largest;  // magnitude of any of the values
};

// Both return -1, or the level that holds a number of escapes other than the count of the next (what they wrote is then
// worthless).
struct Kernels {
    // The upper left rows x columns values of a tile; row r begins at out + r * stride.
    int (*decode)(const TileView& tile, Workspace& workspace, int8_t* out, int64_t stride, int rows, int columns);

    // Adds activations times the tile's values to sums[shape.r][tokens][16], modulo 2^32. `ahead` says where bytes
    // begin that are wanted next, as many as the tile has; null for none.
    int (*multiply)(const TileView& tile, Workspace& workspace, const Activations& activations, const uint8_t* ahead,
                    int32_t* sums);
};

// The calling thread's own.
Workspace& workspace();

}  // namespace tilepress
