// Decoding a tile to a plain matrix. The including file has brought OpenTile and its functions for its target, from
// open_tile-inl.hpp or from a file of the target's own.
#pragma once

#include <cstring>

#include "kernels.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// Puts a strip's symbols in row-major order.
void write_rows(const uint8_t* symbols, int fractals, int8_t* out, int64_t stride, int rows, int columns) {
    for (int fractal = 0; fractal < fractals; ++fractal) {
        const int left = columns - kFractalColumns * fractal;
        for (int row = 0; row < rows; ++row) {
            const uint8_t* const from = symbols + kFractalSymbols * fractal + 4 * row;
            int8_t* const to = out + row * stride + kFractalColumns * fractal;
            if (left >= kFractalColumns) {
                for (int group = 0; group < 8; ++group) std::memcpy(to + 4 * group, from + 64 * group, 4);
            } else {
                for (int column = 0; column < left; ++column) {
                    to[column] = static_cast<int8_t>(from[column / 4 * 64 + column % 4]);
                }
            }
        }
    }
}

int decode(const TileView& tile, Workspace& workspace, int8_t* out, int64_t stride, int rows, int columns) {
    OpenTile open;
    open_tile(tile, 0, workspace, open);
    Ahead nothing{nullptr, 0};
    const bool escapes = tile.levels > 1;
    for (int strip = 0; strip < tile.shape.r; ++strip) {
        next_strip(tile, strip, open, workspace.symbols, nothing);
        // Whoever starts at a strip takes its escapes from where the sync table says.
        if (escapes && open.bad_level < 0 && open.next - workspace.levels[1] != tile.sync[strip]) open.bad_level = 0;
        const int left = rows - kFractalRows * strip;
        write_rows(workspace.symbols, tile.shape.c, out + kFractalRows * strip * stride, stride,
                   left < kFractalRows ? left : kFractalRows, columns);
    }
    return bad_level(tile, open, workspace);
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
