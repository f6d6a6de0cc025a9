// Rounding rows with error feedback, in vectors of rows, without contraction: every target gives the same bits.
#pragma once

#include <cstring>

#include "simd/kernels.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// Rows of a vector. Wider ones than the target's are taken apart through memory: sixteen cost AVX2 three times as much.
#if defined(__AVX512F__)
constexpr int kRowLanes = 16;
#elif defined(__AVX2__)
constexpr int kRowLanes = 8;
#else
constexpr int kRowLanes = 4;
#endif
constexpr int kRows = kRoundedTogether;
static_assert(kRows % kRowLanes == 0);

typedef float Rows __attribute__((vector_size(4 * kRowLanes)));
typedef int32_t RowInts __attribute__((vector_size(4 * kRowLanes)));

// Columns whose errors reach the columns after them together: in between those stay in registers.
constexpr int kBlock = 32;

TILEPRESS_ALWAYS_INLINE Rows load_rows(const float* from) {
    Rows value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
TILEPRESS_ALWAYS_INLINE void store_rows(Rows value, float* to) { std::memcpy(to, &value, sizeof value); }

TILEPRESS_ALWAYS_INLINE Rows cost_of(Rows magnitude, Rows candidate, const float* lengths, float rate) {
    const RowInts index = __builtin_convertvector(candidate, RowInts);
    Rows bits;
    for (int row = 0; row < kRowLanes; ++row) bits[row] = lengths[index[row]];
    const Rows error = magnitude - candidate;
    return error * error + bits * rate;
}
TILEPRESS_ALWAYS_INLINE float cost_of(float magnitude, float candidate, const float* lengths, float rate) {
    const float error = magnitude - candidate;
    return error * error + lengths[static_cast<int>(candidate)] * rate;
}

// The |q| of least (|v| - |q|)^2 + rate * lengths[|q|] among a, a - 1, a - 2 and 0, where a = round(|v|), at most 127;
// the first of them where several are equal. Not-a-number counts as 127. Value: Rows or float.
template <typename Value>
TILEPRESS_ALWAYS_INLINE Value decide(Value magnitude, const float* lengths, float rate) {
    const Value most = Value{} + static_cast<float>(kMagnitudes - 1);
    Value nearest = magnitude < most ? magnitude : most;
    nearest = (nearest + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23: to nearest even
    Value chosen = nearest, least = cost_of(magnitude, nearest, lengths, rate), candidate = nearest;
    for (int below = 1; below < 3; ++below) {
        candidate = candidate > 0.0f ? candidate - 1.0f : candidate;
        const Value cost = cost_of(magnitude, candidate, lengths, rate);
        chosen = cost < least ? candidate : chosen;
        least = cost < least ? cost : least;
    }
    const Value cost = magnitude * magnitude + lengths[0] * rate;
    return cost < least ? Value{} : chosen;
}

// A few rows while they are rounded. remaining[j] is their column j, in the order of rounding and in units of
// weight_scale; of a rounded column it is the error.
struct RowsAtWork {
    int64_t first;
    int count;  // those behind are zero
    float* remaining;

    float* column(int64_t j) const { return remaining + j * kRows; }
};

inline void start(const Rounding& rounding, const RowsAtWork& rows) {
    for (int64_t j = 0; j < rounding.k; ++j) {
        const float* const weight = rounding.weight + rows.first * rounding.k + rounding.order[j];
        float* const column = rows.column(j);
        for (int row = 0; row < rows.count; ++row) {
            column[row] = weight[row * rounding.k] / rounding.steps[rows.first + row];
        }
        for (int row = rows.count; row < kRows; ++row) column[row] = 0.0f;
    }
}

// Rounds one column of some rows. Returns the errors.
TILEPRESS_ALWAYS_INLINE Rows round_column(Rows value, const float* lengths, float rate, int32_t* integers) {
    const Rows size = decide(value < 0.0f ? -value : value, lengths, rate);
    const Rows signed_size = value < 0.0f ? -size : size;
    const RowInts integer = __builtin_convertvector(signed_size, RowInts);
    std::memcpy(integers, &integer, sizeof integer);
    return value - signed_size;
}

inline const float* lengths_of(const Rounding& rounding, int64_t row) {
    return rounding.lengths + (rounding.one_table ? 0 : row / kRowsOfATable * kMagnitudes);
}

inline void round_block(const Rounding& rounding, const RowsAtWork& rows, int64_t begin, int columns) {
    const float* const lengths = lengths_of(rounding, rows.first);
    for (int64_t j = begin; j < begin + columns; ++j) {
        const float* const spread = rounding.feedback + j * rounding.k;
        int32_t integers[kRows];
        for (int part = 0; part < kRows; part += kRowLanes) {
            float* const column = rows.column(j) + part;
            const Rows error = round_column(load_rows(column), lengths, rounding.rate[j], integers + part);
            store_rows(error, column);
            for (int64_t c = j + 1; c < begin + columns; ++c) {
                float* const later = rows.column(c) + part;
                store_rows(load_rows(later) - error * spread[c], later);
            }
        }
        int8_t* const out = rounding.out + rows.first * rounding.k + rounding.order[j];
        for (int row = 0; row < rows.count; ++row) out[row * rounding.k] = static_cast<int8_t>(integers[row]);
    }
}

// kBlock columns of the rows of a block, row by row in the order of rounding, in vectors of columns.
struct RowByRow {
    static constexpr int kParts = kBlock / kRowLanes;

    alignas(64) float left[kBlock];
    alignas(64) float errors[kRowsOfABlock][kBlock];
    alignas(64) float spread[kBlock][kBlock];

    // Rounds row r, whose values are in `left`, and leaves there what spreads over the columns behind: its own error
    // and the share that it got of the errors of the rows before it.
    void round_row(const float* row_feedback, int r, int columns, const float* lengths, const float* rate,
                   int8_t* integers) {
        Rows sums[kParts] = {};
        for (int i = 0; i < r; ++i) {
            for (int part = 0; part < kParts; ++part) {
                sums[part] += row_feedback[i] * load_rows(errors[i] + part * kRowLanes);
            }
        }
        alignas(64) float fed[kBlock];
        for (int part = 0; part < kParts; ++part) store_rows(sums[part], fed + part * kRowLanes);
        for (int c = 0; c < columns; ++c) {
            const float value = left[c] - fed[c];
            const float size = decide(value < 0.0f ? -value : value, lengths, rate[c]);
            const float integer = value < 0.0f ? -size : size;
            integers[c] = static_cast<int8_t>(integer);
            errors[r][c] = value - integer;
            const float error = errors[r][c] + fed[c];
            for (int part = 0; part < kBlock; part += kRowLanes) {
                store_rows(load_rows(left + part) - error * load_rows(spread[c] + part), left + part);
            }
            left[c] = error;
        }
    }
};

// Rounds `columns` columns of the rows `first` to `last` of a block.
inline void round_row_by_row(const Rounding& rounding, int64_t first, int64_t last, float* remaining, int64_t stride,
                             int64_t begin, int columns) {
    RowByRow block;
    std::memset(block.spread, 0, sizeof block.spread);
    for (int c = 0; c < columns; ++c) {
        const float* const spread = rounding.feedback + (begin + c) * rounding.k + begin;
        for (int later = c + 1; later < columns; ++later) block.spread[c][later] = spread[later];
    }
    const float* const lengths = lengths_of(rounding, first);
    for (int64_t position = first; position < last; ++position) {
        const int r = static_cast<int>(position - first);
        const int64_t row = rounding.row_order[position] - first;
        float* const column = remaining + row / kRows * stride + begin * kRows + row % kRows;
        int8_t integers[kBlock];
        for (int c = 0; c < kBlock; ++c) {
            block.left[c] = c < columns ? column[c * kRows] : 0.0f;
            block.errors[r][c] = 0.0f;
        }
        block.round_row(rounding.row_feedback + position * kRowsOfABlock, r, columns, lengths, rounding.rate + begin,
                        integers);
        int8_t* const out = rounding.out + (first + row) * rounding.k;
        for (int c = 0; c < columns; ++c) {
            column[c * kRows] = block.left[c];
            out[rounding.order[begin + c]] = integers[c];
        }
    }
}

// Takes the errors of `columns` columns out of the next kFedTogether.
inline void feed(const float* errors, int columns, const float (*spread)[kFedTogether], float* next) {
    for (int part = 0; part < kRows; part += kRowLanes) {
        Rows sums[kFedTogether];
        for (int c = 0; c < kFedTogether; ++c) sums[c] = load_rows(next + c * kRows + part);
        for (int j = 0; j < columns; ++j) {
            const Rows error = load_rows(errors + j * kRows + part);
            for (int c = 0; c < kFedTogether; ++c) sums[c] -= error * spread[j][c];
        }
        for (int c = 0; c < kFedTogether; ++c) store_rows(sums[c], next + c * kRows + part);
    }
}

void round_rows(const Rounding& rounding, int64_t first, int64_t last, float* remaining) {
    const int64_t k = rounding.k, stride = (k + kFedTogether - 1) / kFedTogether * kFedTogether * kRows;
    const auto rows_from = [&](int64_t row) {
        return RowsAtWork{row, static_cast<int>(last - row < kRows ? last - row : kRows),
                          remaining + (row - first) / kRows * stride};
    };
    for (int64_t row = first; row < last; row += kRows) {
        start(rounding, rows_from(row));
        float* const behind = rows_from(row).column(k);
        std::memset(behind, 0, static_cast<size_t>(rows_from(row).remaining + stride - behind) * sizeof(float));
    }
    for (int64_t begin = 0; begin < k; begin += kBlock) {
        const int columns = static_cast<int>(k - begin < kBlock ? k - begin : kBlock);
        if (rounding.row_order != nullptr) {
            round_row_by_row(rounding, first, last, remaining, stride, begin, columns);
        } else {
            for (int64_t row = first; row < last; row += kRows) round_block(rounding, rows_from(row), begin, columns);
        }
        for (int64_t next = begin + columns; next < k; next += kFedTogether) {
            // A copy, for rows of the matrix that lie 2^n bytes apart push each other out of the caches.
            float spread[kBlock][kFedTogether] = {};
            const int64_t left = k - next < kFedTogether ? k - next : kFedTogether;
            for (int j = 0; j < columns; ++j) {
                for (int64_t c = 0; c < left; ++c) spread[j][c] = rounding.feedback[(begin + j) * k + next + c];
            }
            for (int64_t row = first; row < last; row += kRows) {
                const RowsAtWork rows = rows_from(row);
                feed(rows.column(begin), columns, spread, rows.column(next));
            }
        }
    }
    if (rounding.errors == nullptr) return;
    for (int64_t row = first; row < last; ++row) {
        const float* const column = remaining + (row - first) / kRows * stride + (row - first) % kRows;
        for (int64_t j = 0; j < k; ++j) rounding.errors[row * k + j] = column[j * kRows];
    }
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
