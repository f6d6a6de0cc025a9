// Patches of a tile of the resident form, added to the sums of its codes. Everything has internal linkage, since files
// of several instruction sets include this.
#pragma once

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include <algorithm>

#include "simd/kernels.hpp"
#include "tiles/little_endian.hpp"

namespace tilepress {
namespace {

// Patches `first` and on, added to sums [shape.r][tokens][16].
inline void add_patches_from(int first, const TileView& tile, const Activations& x, int low, int high, int32_t* sums) {
    const int columns = kFractalColumns * tile.shape.c, symbols = kFractalRows * columns;
    int begin = 0;
    for (int patch = first; patch < tile.patches.count; ++patch) {
        const int position = load_u16(tile.patches.positions + 2 * patch), value = tile.patches.values[patch];
        for (; position >= begin + symbols; begin += symbols) sums += kFractalRows * x.tokens;
        const unsigned place = static_cast<unsigned>(position - begin);
        const int8_t* const values = x.values + (place / 64 * 4 | place % 4);
        int32_t* const out = sums + place / 4 % 16;
        // What the code of the nearest value has not given. Without a branch: which end is nearer cannot be predicted.
        const int difference = value - std::min(std::max(value, low), high);
        for (int t = 0; t < x.tokens; ++t) {
            out[kFractalRows * t] = static_cast<int32_t>(static_cast<uint32_t>(out[kFractalRows * t]) +
                                                         static_cast<uint32_t>(difference * values[columns * t]));
        }
    }
}

#ifdef __AVX2__
// Eight at a time, for one token and whole strips of 8 fractals: 0.5 % of patches take 10 cycles each one by one, as
// long as a third of the tile's codes. Returns how many are added.
inline int add_patches_of_one(const TileView& tile, const int8_t* x, int low, int high, int32_t* sums) {
    const __m256i lows = _mm256_set1_epi32(low), highs = _mm256_set1_epi32(high);
    const auto masked = [](__m256i number, int mask) { return _mm256_and_si256(number, _mm256_set1_epi32(mask)); };
    int patch = 0;
    for (; patch + 8 <= tile.patches.count; patch += 8) {
        const __m256i position = _mm256_cvtepu16_epi32(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile.patches.positions + 2 * patch)));
        const __m256i value =
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(tile.patches.values + patch)));
        const __m256i difference = _mm256_sub_epi32(value, _mm256_min_epi32(_mm256_max_epi32(value, lows), highs));
        // A position's bits, the lowest first: 2 of the column, 4 of the row, 6 of the column, then the strip.
        const __m256i row =
            _mm256_or_si256(masked(_mm256_srli_epi32(position, 8), 0xF0), masked(_mm256_srli_epi32(position, 2), 15));
        const __m256i four =
            _mm256_i32gather_epi32(reinterpret_cast<const int*>(x), masked(_mm256_srli_epi32(position, 4), 0xFC), 1);
        const __m256i byte = _mm256_slli_epi32(masked(position, 3), 3);
        const __m256i shifted = _mm256_slli_epi32(_mm256_srlv_epi32(four, byte), 24);
        const __m256i of_x = masked(_mm256_srai_epi32(shifted, 24), 0xFFFF);
        alignas(32) int32_t at[8], products[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(at), row);
        _mm256_store_si256(reinterpret_cast<__m256i*>(products), _mm256_madd_epi16(difference, of_x));
        for (int i = 0; i < 8; ++i) {
            sums[at[i]] = static_cast<int32_t>(static_cast<uint32_t>(sums[at[i]]) + static_cast<uint32_t>(products[i]));
        }
    }
    return patch;
}
#endif

// sums: [shape.r][tokens][16].
inline void add_patches(const TileView& tile, const Activations& x, int32_t* sums) {
    if (tile.patches.count == 0 || tile.table_size(0) == 0) return;
    const int8_t* const table = reinterpret_cast<const int8_t*>(tile.table[0]);
    const int low = table[0], high = table[tile.table_size(0) - 1];
    int added = 0;
#ifdef __AVX2__
    if (x.tokens == 1 && tile.shape.c == 8) added = add_patches_of_one(tile, x.values, low, high, sums);
#endif
    add_patches_from(added, tile, x, low, high, sums);
}

}  // namespace
}  // namespace tilepress
