// Attention to a chunk of tokens, in vectors of 8 whatever the including file's target has, without contraction: every
// target gives the same bits. Torch's reads keys and values once for each query and takes three times as long.
#pragma once

#include <limits>

#include "kernels/floats-inl.hpp"
#include "simd/kernels.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// Rows of the cache in one type. kScaled: load gives multiples of `scale`.
template <typename Float, CacheType Type>
struct FloatStore {
    static constexpr CacheType kType = Type;
    static constexpr bool kScaled = false;
    static TILEPRESS_ALWAYS_INLINE Floats load(const uint8_t* row, int64_t column) {
        return load_floats(reinterpret_cast<const Float*>(row) + column);
    }
};

struct Int8Store {
    static constexpr CacheType kType = CacheType::int8;
    static constexpr bool kScaled = true;
    static TILEPRESS_ALWAYS_INLINE Floats load(const uint8_t* row, int64_t column) {
#ifdef __AVX2__
        // With what GCC 12 makes of the lines below a token behind 8000 others takes 55 ms, so 26.
        const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + column));
        return reinterpret_cast<Floats>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight)));
#else
        typedef int8_t Eight __attribute__((vector_size(kFloats)));
        typedef int32_t Integers __attribute__((vector_size(4 * kFloats)));
        Eight eight;
        std::memcpy(&eight, row + column, sizeof eight);
        return __builtin_convertvector(__builtin_convertvector(eight, Integers), Floats);
#endif
    }
    static TILEPRESS_ALWAYS_INLINE float scale(const uint8_t* row, int64_t size) {
        float scale;
        std::memcpy(&scale, row + size, sizeof scale);
        return scale;
    }
};

// scores[q][t] = queries[q] . keys[t], four tokens at a time; those behind the last are worth nothing.
template <class Store, int Q>
void score(const float* queries, const AttentionChunk& chunk, float (*scores)[AttentionChunk::kTokens]) {
    const int64_t bytes = row_bytes(Store::kType, chunk.size);
    for (int t = 0; t < chunk.tokens; t += 4) {
        const uint8_t* keys[4];
        for (int i = 0; i < 4; ++i) {
            keys[i] = chunk.keys + (t + i < chunk.tokens ? t + i : chunk.tokens - 1) * bytes;
        }
        Floats sums[Q][4] = {};
        for (int64_t c = 0; c < chunk.size; c += kFloats) {
            const Floats key[4] = {Store::load(keys[0], c), Store::load(keys[1], c), Store::load(keys[2], c),
                                   Store::load(keys[3], c)};
            for (int q = 0; q < Q; ++q) {
                const Floats query = load_floats(queries + q * chunk.size + c);
                for (int i = 0; i < 4; ++i) sums[q][i] += query * key[i];
            }
        }
        for (int q = 0; q < Q; ++q) {
            store_sums(sums[q], scores[q] + t);
            if constexpr (Store::kScaled) {
                for (int i = 0; i < 4; ++i) scores[q][t + i] *= Store::scale(keys[i], chunk.size);
            }
        }
    }
}

// Scores to weights e^(score - maximum).
inline void soften(const AttentionChunk& chunk, float* scores, float& maximum, float& total) {
    for (int t = chunk.tokens; t % kFloats != 0; ++t) scores[t] = -std::numeric_limits<float>::infinity();
    Floats largest = load_floats(scores);
    for (int t = kFloats; t < chunk.tokens; t += kFloats) {
        const Floats next = load_floats(scores + t);
        largest = next > largest ? next : largest;
    }
    maximum = largest[0];
    for (int i = 1; i < kFloats; ++i) maximum = maximum < largest[i] ? largest[i] : maximum;
    Floats sums{};
    for (int t = 0; t < chunk.tokens; t += kFloats) {
        const Floats weights = exp_floats(load_floats(scores + t) - maximum);
        store_floats(weights, scores + t);
        sums += weights;
    }
    total = sum_of(sums);
}

// out[q] = weights[q] . values, in C vectors of columns.
template <class Store, int Q, int C>
void mix(const AttentionChunk& chunk, const float (*weights)[AttentionChunk::kTokens], int64_t column, float* out) {
    const int64_t bytes = row_bytes(Store::kType, chunk.size);
    Floats sums[Q][C] = {};
    const uint8_t* row = chunk.values;
    for (int t = 0; t < chunk.tokens; ++t, row += bytes) {
        for (int c = 0; c < C; ++c) {
            const Floats value = Store::load(row, column + c * kFloats);
            for (int q = 0; q < Q; ++q) sums[q][c] += weights[q][t] * value;
        }
    }
    for (int q = 0; q < Q; ++q) {
        for (int c = 0; c < C; ++c) store_floats(sums[q][c], out + q * chunk.size + column + c * kFloats);
    }
}

template <class Store, int Q>
void attend_queries(const AttentionChunk& chunk, int64_t first) {
    alignas(64) float scores[Q][AttentionChunk::kTokens];
    score<Store, Q>(chunk.queries + first * chunk.size, chunk, scores);
    for (int q = 0; q < Q; ++q) soften(chunk, scores[q], chunk.maxima[first + q], chunk.totals[first + q]);
    if constexpr (Store::kScaled) {
        for (int t = 0; t < chunk.tokens; ++t) {
            const float scale = Store::scale(chunk.values + t * row_bytes(Store::kType, chunk.size), chunk.size);
            for (int q = 0; q < Q; ++q) scores[q][t] *= scale;
        }
    }
    float* const out = chunk.out + first * chunk.size;
    int64_t column = 0;
    for (; column + 4 * kFloats <= chunk.size; column += 4 * kFloats) mix<Store, Q, 4>(chunk, scores, column, out);
    for (; column < chunk.size; column += kFloats) mix<Store, Q, 1>(chunk, scores, column, out);
}

template <class Store>
void attend_stored(const AttentionChunk& chunk) {
    // Four sums a query, and four keys, stay in registers.
#ifdef __AVX512VL__
    constexpr int kTogether = 4;
#else
    constexpr int kTogether = 2;
#endif
    int64_t q = 0;
    if constexpr (kTogether == 4) {
        for (; q + 4 <= chunk.count; q += 4) attend_queries<Store, 4>(chunk, q);
        if (q + 3 == chunk.count) return attend_queries<Store, 3>(chunk, q);
    }
    for (; q + 2 <= chunk.count; q += 2) attend_queries<Store, 2>(chunk, q);
    if (q < chunk.count) attend_queries<Store, 1>(chunk, q);
}

void attend(const AttentionChunk& chunk) {
    switch (chunk.type) {
        case CacheType::float32:
            return attend_stored<FloatStore<float, CacheType::float32>>(chunk);
        case CacheType::float16:
            return attend_stored<FloatStore<Float16, CacheType::float16>>(chunk);
        case CacheType::int8:
            return attend_stored<Int8Store>(chunk);
    }
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
