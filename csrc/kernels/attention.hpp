// The attention of a few tokens, or of many, to those before them, in float32.
#pragma once

#include <cstdint>

#include "simd/kernels.hpp"

namespace tilepress {

struct AttentionArguments {
    float* rows;       // [tokens, queries + 2 * heads, size]: queries, keys and values; queries and keys get turned
    const float* cos;  // [tokens, size], of the tokens' positions
    const float* sin;  // [tokens, size]
    CacheType type;
    uint8_t* keys;    // [heads, room] rows, of the first `past` tokens, which this call adds its own to
    uint8_t* values;  // [heads, room] rows
    float* y;         // [tokens, queries, size]
    int64_t tokens;   // at most room - past
    int64_t queries;  // a multiple of heads
    int64_t heads;
    int64_t size;  // a multiple of 8
    int64_t room;
    int64_t past;
    int64_t window;  // tokens that attention reaches, the new one included; 0: all
};

// Turns queries and keys by the rotary embedding, x * cos + (-second half of x, first half of x) * sin, puts keys and
// values behind the others, and gives each query softmax(query . keys / sqrt(size)) . values over those up to its own,
// where query q reads head q / (queries / heads). The same bits for any number of threads, any instruction set, and
// however tokens are divided into calls.
void attend(const AttentionArguments& arguments, int threads);

}  // namespace tilepress
