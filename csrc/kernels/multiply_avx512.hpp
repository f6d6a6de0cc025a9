// Multiplying by a tile with AVX-512 VNNI. Up to kFused tokens are multiplied by each group of symbols while it is in a
// register; more than that by the decoded tile, in blocks whose sums fill the registers.
#pragma once

#include "codec/open_tile_avx512.hpp"
#include "codec/patches-inl.hpp"
#include "kernels/add_patches-inl.hpp"

namespace tilepress::avx512 {
namespace {

constexpr int kFused = 8;

TILEPRESS_INLINE Bytes four_values(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
}
TILEPRESS_INLINE void add_to(int32_t* p, Bytes sums) {
    store(reinterpret_cast<uint8_t*>(p), _mm512_add_epi32(load(reinterpret_cast<const uint8_t*>(p)), sums));
}

// Symbols are values plus 128; what that adds to the sums of a token, negative.
TILEPRESS_INLINE Bytes excess(int32_t total) {
    return _mm512_set1_epi32(static_cast<int32_t>(-128u * static_cast<uint32_t>(total)));
}

// Adds to sums[shape.r][Tokens][16] what the tokens get from all strips, decoding as it goes.
template <int Width, bool Escapes, int Tokens>
const uint8_t* multiply_fused(const TileView& tile, const Level& level, const uint8_t* next, const Activations& x,
                              Ahead& ahead, int32_t* sums) {
    // One token's sums in two registers: a dot product's latency is four cycles, a group takes five.
    constexpr int kParts = Tokens == 1 ? 2 : 1;
    const Symbols<Width, Escapes> symbols(level);
    const uint8_t* codes = tile.codes[0];
    const int stride = kFractalColumns * tile.shape.c;
    for (int strip = 0; strip < tile.shape.r; ++strip, sums += kFractalRows * Tokens) {
        Bytes acc[Tokens][kParts];
        for (int t = 0; t < Tokens; ++t) {
            acc[t][0] = excess(x.totals[t]);
            if constexpr (kParts == 2) acc[t][1] = _mm512_setzero_si512();
        }
        const int8_t* values = x.values;
        for (int f = 0; f < tile.shape.c; ++f, codes += 64 * Width, values += kFractalColumns) {
            ahead.ask();
            const Fractal<Width> fractal(codes);
            each_unit([&](auto unit) __attribute__((always_inline)) {
                const Bytes group = symbols.template of<unit>(fractal.template inverted<unit>(), next);
                for (int t = 0; t < Tokens; ++t) {
                    Bytes& sum = acc[t][unit % kParts];
                    sum = _mm512_dpbusd_epi32(sum, group, four_values(values + t * stride + 4 * unit));
                }
            });
        }
        for (int t = 0; t < Tokens; ++t) {
            if constexpr (kParts == 2) acc[t][0] = _mm512_add_epi32(acc[t][0], acc[t][1]);
            add_to(sums + kFractalRows * t, acc[t][0]);
        }
    }
    return next;
}

using MultiplyFused = const uint8_t* (*)(const TileView&, const Level&, const uint8_t*, const Activations&, Ahead&,
                                         int32_t*);

template <int Width, bool Escapes>
constexpr MultiplyFused kByTokens[kFused] = {
    multiply_fused<Width, Escapes, 1>, multiply_fused<Width, Escapes, 2>, multiply_fused<Width, Escapes, 3>,
    multiply_fused<Width, Escapes, 4>, multiply_fused<Width, Escapes, 5>, multiply_fused<Width, Escapes, 6>,
    multiply_fused<Width, Escapes, 7>, multiply_fused<Width, Escapes, 8>,
};
// By width less 1, then whether level 0 has an escape, then tokens less 1.
constexpr const MultiplyFused* kMultiplyFused[7][2] = {
    {kByTokens<1, false>, kByTokens<1, true>}, {kByTokens<2, false>, kByTokens<2, true>},
    {kByTokens<3, false>, kByTokens<3, true>}, {kByTokens<4, false>, kByTokens<4, true>},
    {kByTokens<5, false>, kByTokens<5, true>}, {kByTokens<6, false>, kByTokens<6, true>},
    {kByTokens<7, false>, kByTokens<7, true>},
};

// What Tokens tokens get from Strips strips of a decoded tile: Strips x Tokens sums stay in registers.
template <int Strips, int Tokens>
void multiply_block(const uint8_t* symbols, int groups, const int8_t* values, const int32_t* totals, int tokens,
                    int32_t* sums) {
    Bytes acc[Tokens][Strips];
    for (int t = 0; t < Tokens; ++t) {
        for (int s = 0; s < Strips; ++s) acc[t][s] = excess(totals[t]);
    }
    for (int group = 0; group < groups; ++group) {
        Bytes weights[Strips];
        for (int s = 0; s < Strips; ++s) weights[s] = _mm512_load_si512(symbols + 64 * (s * groups + group));
        for (int t = 0; t < Tokens; ++t) {
            const Bytes four = four_values(values + 4 * (t * groups + group));
            for (int s = 0; s < Strips; ++s) acc[t][s] = _mm512_dpbusd_epi32(acc[t][s], weights[s], four);
        }
    }
    for (int t = 0; t < Tokens; ++t) {
        for (int s = 0; s < Strips; ++s) add_to(sums + kFractalRows * (s * tokens + t), acc[t][s]);
    }
}

constexpr int kBlockTokens = 6;  // by four strips: 24 sums, 4 weights, and one register for the values

template <int Strips>
void multiply_strips(const uint8_t* symbols, int groups, const Activations& x, int32_t* sums) {
    int t = 0;
    const auto step = [&]<int Tokens>() __attribute__((always_inline)) {
        multiply_block<Strips, Tokens>(symbols, groups, x.values + 4 * groups * t, x.totals + t, x.tokens,
                                       sums + kFractalRows * t);
        t += Tokens;
    };
    while (x.tokens - t >= kBlockTokens) step.template operator()<kBlockTokens>();
    switch (x.tokens - t) {
        case 5:
            return step.template operator()<5>();
        case 4:
            return step.template operator()<4>();
        case 3:
            return step.template operator()<3>();
        case 2:
            return step.template operator()<2>();
        case 1:
            return step.template operator()<1>();
    }
}

void multiply_decoded(const uint8_t* symbols, TileShape shape, const Activations& x, int32_t* sums) {
    const int groups = 8 * shape.c;
    int strip = 0;
    const auto step = [&]<int Strips>() __attribute__((always_inline)) {
        multiply_strips<Strips>(symbols + 64 * groups * strip, groups, x, sums + kFractalRows * x.tokens * strip);
        strip += Strips;
    };
    while (shape.r - strip >= 4) step.template operator()<4>();
    if (shape.r - strip >= 2) step.template operator()<2>();
    if (shape.r - strip >= 1) step.template operator()<1>();
}

int multiply(const TileView& tile, Workspace& workspace, const Activations& x, const uint8_t* ahead, int32_t* sums) {
    OpenTile open;
    open_tile(tile, -128, workspace, open);
    const int lines = static_cast<int>((tile.bytes / 64 + tile.shape.f - 1) / tile.shape.f);
    Ahead soon{ahead, lines};
    const int width = tile.width[0];
    if (x.tokens <= kFused && width > 0 && width < 8) {
        const MultiplyFused fused = kMultiplyFused[width - 1][tile.levels > 1][x.tokens - 1];
        open.next = fused(tile, open.level, open.next, x, soon, sums);
        add_patches(tile, x, sums);
    } else {
        int patch = 0;
        for (int strip = 0; strip < tile.shape.r; ++strip) {
            uint8_t* const symbols = workspace.symbols + kFractalSymbols * tile.shape.c * strip;
            next_strip(tile, strip, open, symbols, soon);
            patch_strip(tile, strip, -128, symbols, patch);
        }
        multiply_decoded(workspace.symbols, tile.shape, x, sums);
    }
    return bad_level(tile, open, workspace);
}

}  // namespace
}  // namespace tilepress::avx512
