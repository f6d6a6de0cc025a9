#include "bench/dense_int8.hpp"

#include <algorithm>
#include <string_view>
#include <vector>

#include "simd/isa.hpp"
#include "threads/tasks.hpp"

namespace tilepress {

namespace {

using std::string_view_literals::operator""sv;

void rows_portable(const DenseInt8& product, int64_t begin, int64_t end) {
    for (int64_t first = 0, chunk; first < product.tokens; first += chunk) {
        chunk = dense_chunk(product.tokens - first);
        const int8_t* const x = product.x + first * product.k;
        for (int64_t row = begin * kDenseRows; row < end * kDenseRows; ++row) {
            const uint8_t* const weights =
                product.packed + row / kDenseRows * kDenseRows * product.k + row % kDenseRows * 4;
            for (int64_t t = 0; t < chunk; ++t) {
                int32_t sum = -product.biases[first + t];
                for (int64_t c = 0; c < product.k; ++c) {
                    sum += weights[c / 4 * 4 * kDenseRows + c % 4] * x[(c / 4 * chunk + t) * 4 + c % 4];
                }
                product.y[(first + t) * product.n + row] = sum;
            }
        }
    }
}

}  // namespace

bool dense_int8_is_fast() {
    return std::ranges::any_of(isas(), [](const Isa& isa) { return isa.name == "avx512"sv && isa.available(); });
}

void pack_dense_int8(const int8_t* matrix, int64_t n, int64_t k, uint8_t* packed) {
    for (int64_t block = 0; block < n; block += kDenseRows) {
        for (int64_t column = 0; column < k; column += 4) {
            for (int64_t row = block; row < block + kDenseRows; ++row) {
                for (int64_t c = column; c < column + 4; ++c) {
                    *packed++ = static_cast<uint8_t>(matrix[row * k + c] + 128);
                }
            }
        }
    }
}

void dense_int8(const uint8_t* packed, int64_t n, int64_t k, const int8_t* x, int64_t tokens, int32_t* y, int threads) {
    std::vector<int32_t> biases(static_cast<size_t>(tokens));
    std::vector<int8_t> ordered(static_cast<size_t>(tokens * k));
    for (int64_t first = 0, chunk; first < tokens; first += chunk) {
        chunk = dense_chunk(tokens - first);
        for (int64_t t = 0; t < chunk; ++t) {
            const int8_t* const values = x + (first + t) * k;
            int8_t* const to = ordered.data() + first * k + 4 * t;
            int32_t sum = 0;
            for (int64_t c = 0; c < k; c += 4) {
                std::copy_n(values + c, 4, to + c * chunk);
                sum += values[c] + values[c + 1] + values[c + 2] + values[c + 3];
            }
            biases[first + t] = 128 * sum;
        }
    }
    const DenseInt8 product{packed, n, k, ordered.data(), tokens, biases.data(), y};
    auto* const rows = dense_int8_is_fast() ? dense_int8_rows_avx512 : rows_portable;
    const int64_t blocks = n / kDenseRows, tasks = std::min<int64_t>(blocks, threads == 1 ? 1 : 16 * threads);
    parallel_for(tasks, threads,
                 [&](int64_t task) { rows(product, task * blocks / tasks, (task + 1) * blocks / tasks); });
}

}  // namespace tilepress
