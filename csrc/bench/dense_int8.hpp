// The product that compression is measured against: uncompressed int8 weights, as fast as memory gives them.
#pragma once

#include <cstdint>

namespace tilepress {

// Rows and columns come in multiples of these.
constexpr int64_t kDenseRows = 16, kDenseColumns = 16;

// Whether this processor has AVX-512 VNNI, whatever instruction set the kernels were told to use. Elsewhere the product
// is right, but slow.
bool dense_int8_is_fast();

// Lays the int8 matrix [n, k] out as packed[n / 16][k / 4][16 rows][4 columns], each value plus 128: what VNNI
// multiplies.
void pack_dense_int8(const int8_t* matrix, int64_t n, int64_t k, uint8_t* packed);

// y [tokens, n] = x [tokens, k] times the packed matrix, transposed. It does less than tilepress::linear, which also
// quantizes x and scales y.
void dense_int8(const uint8_t* packed, int64_t n, int64_t k, const int8_t* x, int64_t tokens, int32_t* y, int threads);

// Tokens are multiplied so many at a time: the largest of 16, 8, 4 and 1 that are left.
constexpr int64_t dense_chunk(int64_t tokens_left) {
    return tokens_left >= 16 ? 16 : tokens_left >= 8 ? 8 : tokens_left >= 4 ? 4 : 1;
}

// What a path computes: rows of y in every token. x is in the order [k / 4][tokens][4] within each chunk of tokens;
// biases [tokens] are 128 times the sums of x.
struct DenseInt8 {
    const uint8_t* packed;
    int64_t n, k;
    const int8_t* x;
    int64_t tokens;
    const int32_t* biases;
    int32_t* y;
};

// The rows [16 * begin, 16 * end).
void dense_int8_rows_avx512(const DenseInt8& product, int64_t begin, int64_t end);

}  // namespace tilepress
