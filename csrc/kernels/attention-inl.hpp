// Attention to a chunk of tokens, in vectors of 8 whatever the including file's target has, without contraction: every
// target gives the same bits. Torch's reads keys and values once for each query and takes three times as long.
#pragma once

#include <limits>

#include "kernels/floats-inl.hpp"
#include "simd/kernels.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// scores[q][t] = queries[q] . keys[t], four tokens at a time; those behind the last are worth nothing.
template <int Q>
void score(const float* queries, const AttentionChunk& chunk, float (*scores)[AttentionChunk::kTokens]) {
    for (int t = 0; t < chunk.tokens; t += 4) {
        const float* keys[4];
        for (int i = 0; i < 4; ++i) {
            keys[i] = chunk.keys + (t + i < chunk.tokens ? t + i : chunk.tokens - 1) * chunk.size;
        }
        Floats sums[Q][4] = {};
        for (int64_t c = 0; c < chunk.size; c += kFloats) {
            const Floats key[4] = {load_floats(keys[0] + c), load_floats(keys[1] + c), load_floats(keys[2] + c),
                                   load_floats(keys[3] + c)};
            for (int q = 0; q < Q; ++q) {
                const Floats query = load_floats(queries + q * chunk.size + c);
                for (int i = 0; i < 4; ++i) sums[q][i] += query * key[i];
            }
        }
        for (int q = 0; q < Q; ++q) store_sums(sums[q], scores[q] + t);
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
template <int Q, int C>
void mix(const AttentionChunk& chunk, const float (*weights)[AttentionChunk::kTokens], int64_t column, float* out) {
    Floats sums[Q][C] = {};
    const float* values = chunk.values + column;
    for (int t = 0; t < chunk.tokens; ++t, values += chunk.size) {
        for (int c = 0; c < C; ++c) {
            const Floats value = load_floats(values + c * kFloats);
            for (int q = 0; q < Q; ++q) sums[q][c] += weights[q][t] * value;
        }
    }
    for (int q = 0; q < Q; ++q) {
        for (int c = 0; c < C; ++c) store_floats(sums[q][c], out + q * chunk.size + column + c * kFloats);
    }
}

template <int Q>
void attend_queries(const AttentionChunk& chunk, int64_t first) {
    alignas(64) float scores[Q][AttentionChunk::kTokens];
    score<Q>(chunk.queries + first * chunk.size, chunk, scores);
    for (int q = 0; q < Q; ++q) soften(chunk, scores[q], chunk.maxima[first + q], chunk.totals[first + q]);
    float* const out = chunk.out + first * chunk.size;
    int64_t column = 0;
    for (; column + 4 * kFloats <= chunk.size; column += 4 * kFloats) mix<Q, 4>(chunk, scores, column, out);
    for (; column < chunk.size; column += kFloats) mix<Q, 1>(chunk, scores, column, out);
}

void attend(const AttentionChunk& chunk) {
    // Four sums a query, and four keys, stay in registers.
#ifdef __AVX512VL__
    constexpr int kTogether = 4;
#else
    constexpr int kTogether = 2;
#endif
    int64_t q = 0;
    if constexpr (kTogether == 4) {
        for (; q + 4 <= chunk.count; q += 4) attend_queries<4>(chunk, q);
        if (q + 3 == chunk.count) return attend_queries<3>(chunk, q);
    }
    for (; q + 2 <= chunk.count; q += 2) attend_queries<2>(chunk, q);
    if (q < chunk.count) attend_queries<1>(chunk, q);
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
