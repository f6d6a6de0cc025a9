#include "kernels/attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "simd/isa.hpp"
#include "simd/kernels.hpp"
#include "threads/tasks.hpp"

namespace tilepress {

namespace {

void turn(const AttentionArguments& arguments, const float* row, float* out) {
    const int64_t half = arguments.size / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float first = row[i], second = row[i + half];
        out[i] = first * arguments.cos[i] + -second * arguments.sin[i];
        out[i + half] = second * arguments.cos[i + half] + first * arguments.sin[i + half];
    }
}

}  // namespace

void attend(const AttentionArguments& arguments, int threads) {
    const int64_t size = arguments.size, group = arguments.queries / arguments.heads,
                  tokens = arguments.length + 1 - arguments.first;
    const int64_t chunks = (tokens + AttentionChunk::kTokens - 1) / AttentionChunk::kTokens;
    // The caller's: turned queries, then for every task the sums, maxima and totals of its queries.
    static thread_local std::vector<float> scratch;
    scratch.resize(static_cast<size_t>(arguments.queries * (size + chunks * (size + 2))));
    float* const queries = scratch.data();
    float* const sums = queries + arguments.queries * size;
    float* const maxima = sums + arguments.queries * chunks * size;
    float* const totals = maxima + arguments.queries * chunks;

    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    for (int64_t q = 0; q < arguments.queries; ++q) {
        turn(arguments, arguments.rows + q * size, queries + q * size);
        for (int64_t i = 0; i < size; ++i) queries[q * size + i] *= scale;
    }
    const float* const new_keys = arguments.rows + arguments.queries * size;
    const float* const new_values = new_keys + arguments.heads * size;
    for (int64_t head = 0; head < arguments.heads; ++head) {
        const int64_t place = (head * arguments.room + arguments.length) * size;
        turn(arguments, new_keys + head * size, arguments.keys + place);
        std::memcpy(arguments.values + place, new_values + head * size, static_cast<size_t>(size) * sizeof(float));
    }

    // Sharing less than this takes longer than doing it: a few microseconds of work.
    constexpr int64_t kWorthSharing = 1 << 14;
    const bool share = 2 * arguments.heads * tokens * size >= kWorthSharing;
    const Kernels& kernels = isa().kernels;
    parallel_for(arguments.heads * chunks, share ? threads : 1, [&](int64_t task) {
        const int64_t head = task / chunks, first = task % chunks * AttentionChunk::kTokens;
        const int64_t place = (head * arguments.room + arguments.first + first) * size;
        kernels.attend({
            .queries = queries + head * group * size,
            .keys = arguments.keys + place,
            .values = arguments.values + place,
            .out = sums + task * group * size,
            .maxima = maxima + task * group,
            .totals = totals + task * group,
            .group = group,
            .size = size,
            .tokens = static_cast<int>(std::min<int64_t>(tokens - first, AttentionChunk::kTokens)),
        });
    });

    for (int64_t q = 0; q < arguments.queries; ++q) {
        // Chunk c of this query.
        const auto at = [&](int64_t c) { return (q / group * chunks + c) * group + q % group; };
        float* const y = arguments.y + q * size;
        float maximum = maxima[at(0)], total = 0;
        for (int64_t c = 1; c < chunks; ++c) maximum = std::max(maximum, maxima[at(c)]);
        std::fill(y, y + size, 0.0f);
        for (int64_t c = 0; c < chunks; ++c) {
            const float weight = std::exp(maxima[at(c)] - maximum);
            total += weight * totals[at(c)];
            for (int64_t i = 0; i < size; ++i) y[i] += weight * sums[at(c) * size + i];
        }
        for (int64_t i = 0; i < size; ++i) y[i] /= total;
    }
}

}  // namespace tilepress
