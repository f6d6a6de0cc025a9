// Writing a tile (docs/reference/bitstream.md, "Tile"), with the including file's
//
//     template <bool Escapes>
//     class Coder {
//         explicit Coder(const LevelCodes& level);
//         int run(const uint8_t* symbols, int length, uint8_t* codes, uint8_t* escaped) const;
//     };
//
// run() codes `length` symbols, a multiple of 64, and appends those that escape at `escaped`, which has room for 64
// more. It returns how many they are.
#pragma once

#include <cstring>

#include "codec/level_codes.hpp"
#include "codec/pack_planes-inl.hpp"
#include "simd/encode_tile.hpp"
#include "tiles/little_endian.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// Codes level 0 to `out`; leaves what escapes at `escaped` and the running number of escapes a strip in `sync`.
template <bool Escapes>
void write_level_0(const LevelCodes& level, int width, TileShape shape, const uint8_t* symbols, uint8_t* escaped,
                   uint8_t* out, uint16_t sync[kMaxTileFractals]) {
    const Coder<Escapes> coder(level);
    const PackPlanes pack = kPackPlanes<64>[width - 1];
    alignas(64) uint8_t codes[kFractalSymbols];
    int escapes = 0;
    for (int strip = 0; strip < shape.r; ++strip) {
        for (int fractal = 0; fractal < shape.c; ++fractal, symbols += kFractalSymbols, out += 64 * width) {
            escapes += coder.run(symbols, kFractalSymbols, codes, escaped + escapes);
            pack(codes, out);
        }
        sync[strip] = static_cast<uint16_t>(escapes);
    }
}

// Codes the `count` symbols of a level after 0 to `out`; leaves what escapes at `escaped`. Returns the end of the
// codes. The last block is filled up with the symbol whose code is 0.
template <bool Escapes>
uint8_t* write_level(const LevelCodes& level, int width, int count, uint8_t* symbols, uint8_t* escaped, uint8_t* out) {
    const Coder<Escapes> coder(level);
    const PackPlanes pack = kPackPlanes<16>[width - 1];
    alignas(64) uint8_t codes[128];
    std::memset(symbols + count, level.table[0], 127);
    int escapes = 0;
    for (int begin = 0; begin < count; begin += 128, out += 16 * width) {
        escapes += coder.run(symbols + begin, 128, codes, escaped + escapes);
        pack(codes, out);
    }
    return out;
}

void encode_tile(const TilePlan& plan, TileShape shape, EncodeBuffers& buffers, uint8_t* out) {
    uint8_t* header = out + plan.header;
    uint8_t* tables = header + (plan.levels > 1 ? 2 * (shape.r + plan.levels - 2) : 0);
    uint8_t* codes = out + plan.codes;
    uint16_t sync[kMaxTileFractals];
    for (int l = 0; l < plan.levels; ++l) {
        const LevelCodes level(plan, l);
        uint8_t* const symbols = buffers.symbols[l % 2];
        uint8_t* const escaped = buffers.symbols[1 - l % 2];
        const int width = plan.width[l], count = static_cast<int>(plan.count[l]);
        const bool escapes = l + 1 < plan.levels;
        std::memcpy(tables, level.table, static_cast<size_t>(level.table_size));
        tables += level.table_size;
        if (width == 8) {
            uint8_t* const to = l == 0 ? out : codes;
            std::memcpy(to, symbols, static_cast<size_t>(count));
            codes = to + count;
        } else if (l == 0) {
            const auto write = escapes ? write_level_0<true> : write_level_0<false>;
            if (width > 0) write(level, width, shape, symbols, escaped, out, sync);
        } else if (width > 0) {
            const auto write = escapes ? write_level<true> : write_level<false>;
            codes = write(level, width, count, symbols, escaped, codes);
        }
    }
    std::memset(tables, 0, static_cast<size_t>(out + plan.codes - tables));
    std::memset(codes, 0, static_cast<size_t>(out + plan.bytes - codes));
    if (plan.levels == 1) return;
    for (int strip = 0; strip < shape.r; ++strip, header += 2) store_u16(header, sync[strip]);
    for (int l = 2; l < plan.levels; ++l, header += 2) store_u16(header, static_cast<uint16_t>(plan.count[l]));
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
