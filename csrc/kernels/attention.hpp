// One token's attention to those before it, in float32.
#pragma once

#include <cstdint>

namespace tilepress {

struct AttentionArguments {
    const float* rows;  // [queries + 2 * heads, size]: the token's queries, keys and values
    const float* cos;   // [size], of the token's position
    const float* sin;   // [size]
    float* keys;        // [heads, room, size], of the first `length` tokens, which this call adds one to
    float* values;      // [heads, room, size]
    float* y;           // [queries, size]
    int64_t queries;    // a multiple of heads
    int64_t heads;
    int64_t size;  // a multiple of 8
    int64_t room;
    int64_t length;  // less than room
    int64_t first;   // attention reaches from this token to the new one; at most length
};

// Turns queries and keys by the rotary embedding, x * cos + (-second half of x, first half of x) * sin, puts keys and
// values behind the others, and gives each query softmax(query . keys / sqrt(size)) . values over all of them, where
// query q reads head q / (queries / heads). The same bits for any number of threads and any instruction set.
void attend(const AttentionArguments& arguments, int threads);

}  // namespace tilepress
