// Decoding a tile, or one strip of it, to a plain matrix. The including file has brought OpenTile and its functions for
// its target, from open_tile-inl.hpp or from a file of the target's own.
#pragma once

#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "codec/patches-inl.hpp"
#include "simd/kernels.hpp"
#include "tiles/fractal_rows-inl.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// Copies whole cache lines past the caches, where the processor has a way to: the lines need not be read before they
// are written.
void stream_lines(const uint8_t* from, int bytes, uint8_t* to) {
#ifdef __SSE2__
    for (int at = 0; at < bytes; at += 16) {
        const __m128i sixteen = _mm_load_si128(reinterpret_cast<const __m128i*>(from + at));
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + at), sixteen);
    }
#else
    std::memcpy(to, from, static_cast<size_t>(bytes));
#endif
}

int decode(const TileView& tile, Workspace& workspace, const Window& window, const uint8_t* ahead) {
    OpenTile open;
    open_tile(tile, 0, workspace, open);
    const int lines = static_cast<int>((tile.bytes / 64 + tile.shape.f - 1) / tile.shape.f);
    Ahead soon{ahead, lines};
    const bool escapes = tile.levels > 1;
    const int width = kFractalColumns * tile.shape.c;
    int patch = 0;
    for (int strip = 0; strip < tile.shape.r; ++strip) {
        next_strip(tile, strip, open, workspace.symbols, soon);
        patch_strip(tile, strip, 0, workspace.symbols, patch);
        // Whoever starts at a strip takes its escapes from where the sync table says.
        if (escapes && open.bad_level < 0 && open.next - workspace.levels[1] != tile.sync[strip]) open.bad_level = 0;
        // In row-major order first where it is near: lines that are written in pieces, as fractals go, leave the
        // first-level cache in between, since rows of large matrices contend for the same few places there.
        symbols_to_rows(workspace.symbols, tile.shape.c, workspace.rows, width);
        const int begin = kFractalRows * strip;
        for (int row = begin; row < begin + kFractalRows && row < window.rows; ++row) {
            const uint8_t* const from = workspace.rows + width * (row - begin);
            uint8_t* const to = window.begin + row * window.stride;
            if (window.stream) {
                stream_lines(from, window.columns, to);
            } else {
                std::memcpy(to, from, static_cast<size_t>(window.columns));
            }
        }
    }
#ifdef __SSE2__
    if (window.stream) _mm_sfence();  // streamed lines are in no order with what tells other threads of them
#endif
    return bad_level(tile, open, workspace);
}

int decode_rows(const TileView& tile, Workspace& workspace, int strip) {
    OpenTile open;
    open_tile(tile, 0, workspace, open);
    const bool escapes = tile.levels > 1;
    // At most `strip` strips of symbols: parse_tile has checked that the sync table grows by no more than one a strip.
    if (escapes && strip > 0) open.next += tile.sync[strip - 1];
    Ahead nothing{tile.codes[0], 0};
    next_strip(tile, strip, open, workspace.symbols, nothing);
    int patch = first_patch(tile, strip);
    patch_strip(tile, strip, 0, workspace.symbols, patch);
    if (escapes && open.bad_level < 0 && open.next - workspace.levels[1] != tile.sync[strip]) open.bad_level = 0;
    symbols_to_rows(workspace.symbols, tile.shape.c, workspace.rows, kFractalColumns * tile.shape.c);
    return open.bad_level;
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
