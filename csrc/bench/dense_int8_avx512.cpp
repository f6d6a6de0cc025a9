// On processors without AVX-512 VNNI this path is never entered.
#include "bench/dense_int8.hpp"

#ifdef __AVX512VNNI__

#include <immintrin.h>

#include <cstring>

namespace tilepress {

namespace {

// Beyond the end of a 4 KB page, where the hardware's prefetcher stops: 25.5 GB/s with, 23.5 without.
constexpr int64_t kAhead = 4096;

__m512i four_values(const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

// One block of 16 rows times Tokens tokens. Chains of sums hide the latency of a multiplication: four of them at least.
template <int Tokens>
void multiply(const DenseInt8& product, int64_t block, int64_t first_token) {
    constexpr int kChains = Tokens >= 4 ? 1 : 4 / Tokens;
    const uint8_t* weights = product.packed + block * kDenseRows * product.k;
    const int8_t* const x = product.x + first_token * product.k;
    __m512i sums[Tokens][kChains];
    for (auto& of_token : sums) {
        for (__m512i& sum : of_token) sum = _mm512_setzero_si512();
    }
    for (int64_t column = 0; column < product.k; column += 4 * kChains) {
#pragma GCC unroll 4
        for (int chain = 0; chain < kChains; ++chain, weights += 64) {
            _mm_prefetch(reinterpret_cast<const char*>(weights + kAhead), _MM_HINT_T1);
            const __m512i w = _mm512_loadu_si512(weights);
#pragma GCC unroll 16
            for (int t = 0; t < Tokens; ++t) {
                sums[t][chain] =
                    _mm512_dpbusd_epi32(sums[t][chain], w, four_values(x + (column + 4 * chain) * Tokens + 4 * t));
            }
        }
    }
    for (int t = 0; t < Tokens; ++t) {
        __m512i sum = sums[t][0];
        for (int chain = 1; chain < kChains; ++chain) sum = _mm512_add_epi32(sum, sums[t][chain]);
        sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(product.biases[first_token + t]));
        _mm512_storeu_si512(product.y + (first_token + t) * product.n + block * kDenseRows, sum);
    }
}

}  // namespace

void dense_int8_rows_avx512(const DenseInt8& product, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
        for (int64_t first = 0, chunk; first < product.tokens; first += chunk) {
            chunk = dense_chunk(product.tokens - first);
            switch (chunk) {
                case 16:
                    multiply<16>(product, block, first);
                    break;
                case 8:
                    multiply<8>(product, block, first);
                    break;
                case 4:
                    multiply<4>(product, block, first);
                    break;
                default:
                    multiply<1>(product, block, first);
            }
        }
    }
}

}  // namespace tilepress

#else

namespace tilepress {

void dense_int8_rows_avx512(const DenseInt8&, int64_t, int64_t) {}

}  // namespace tilepress

#endif
