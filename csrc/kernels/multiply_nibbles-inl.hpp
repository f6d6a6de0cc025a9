// Multiplying by a tile of 4-bit codes that stand for a run of values, by AVX2's vpmaddubsw: no symbol is looked up or
// stored. A code is at most 15, so that eight groups, a fractal, share sums of 16 bits.
#pragma once

#include "codec/open_tile-inl.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// With more tokens, a strip's symbols are stored once and read for all of them in less time.
constexpr int kNibbleTokens = 12;

static_assert(8 * 2 * 15 * 128 <= 32767);

bool holds_nibbles(const TileView& tile) {
    return tile.levels == 1 && tile.width[0] == 4 && is_run(tile.table[0], tile.table_size(0));
}

// Adds to sums[shape.r][tokens][16] what Tokens tokens, the first of which is `first`, get from all strips.
template <int Tokens>
void multiply_nibbles(const TileView& tile, const Activations& x, int first, Ahead& ahead, int32_t* sums) {
    const int groups = 8 * tile.shape.c, lowest = static_cast<int8_t>(tile.table[0][0]);
    const int8_t* const values = x.values + 4 * groups * first;
    const __m256i low = _mm256_set1_epi8(15), one = _mm256_set1_epi16(1);
    const uint8_t* codes = tile.codes[0];
    for (int strip = 0; strip < tile.shape.r; ++strip) {
        __m256i acc[Tokens][2];  // sums of the strip's first eight rows and of the others
        for (int t = 0; t < Tokens; ++t) acc[t][0] = acc[t][1] = _mm256_set1_epi32(lowest * x.totals[first + t]);
        for (int fractal = 0; fractal < tile.shape.c; ++fractal, codes += 64 * 4) {
            ahead.ask();
            __m256i pairs[Tokens][2];
            for (int t = 0; t < Tokens; ++t) pairs[t][0] = pairs[t][1] = _mm256_setzero_si256();
            // Unrolled, GCC 12 multiplies all of it before it adds, and spills: 4 to 12 tokens take a third longer.
#pragma GCC unroll 1
            for (int block = 0; block < 4; ++block) {
                const __m256i upper = load(codes + 64 * block).v, lower = load(codes + 64 * block + 32).v;
                const __m256i even[2] = {_mm256_and_si256(upper, low), _mm256_and_si256(lower, low)};
                const __m256i odd[2] = {_mm256_and_si256(_mm256_srli_epi16(upper, 4), low),
                                        _mm256_and_si256(_mm256_srli_epi16(lower, 4), low)};
                for (int t = 0; t < Tokens; ++t) {
                    const int8_t* const at = values + 4 * (t * groups + 8 * fractal + 2 * block);
                    const __m256i of_even = four_values(at), of_odd = four_values(at + 4);
                    for (int half = 0; half < 2; ++half) {
                        pairs[t][half] = _mm256_add_epi16(pairs[t][half], _mm256_maddubs_epi16(even[half], of_even));
                        pairs[t][half] = _mm256_add_epi16(pairs[t][half], _mm256_maddubs_epi16(odd[half], of_odd));
                    }
                }
            }
            for (int t = 0; t < Tokens; ++t) {
                for (int half = 0; half < 2; ++half) {
                    acc[t][half] = _mm256_add_epi32(acc[t][half], _mm256_madd_epi16(pairs[t][half], one));
                }
            }
        }
        int32_t* const out = sums + kFractalRows * (strip * x.tokens + first);
        for (int t = 0; t < Tokens; ++t) {
            add_to(out + kFractalRows * t, Sums{acc[t][0]});
            add_to(out + kFractalRows * t + 8, Sums{acc[t][1]});
        }
    }
}

void multiply_nibbles(const TileView& tile, const Activations& x, const uint8_t* ahead, int32_t* sums) {
    const int lines = static_cast<int>((tile.bytes / 64 + tile.shape.f - 1) / tile.shape.f);
    Ahead soon{ahead, lines};
    int t = 0;
    for (; x.tokens - t >= 4; t += 4, soon.lines = 0) multiply_nibbles<4>(tile, x, t, soon, sums);
    if (x.tokens - t >= 2) {
        multiply_nibbles<2>(tile, x, t, soon, sums);
        t += 2;
        soon.lines = 0;
    }
    if (x.tokens - t == 1) multiply_nibbles<1>(tile, x, t, soon, sums);
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
