// A fractal's symbols, [8 groups][16 rows][4 columns], and its 16 rows of 32 columns (docs/reference/bitstream.md,
// "Geometry"): with four columns taken as one word, a matrix of words is turned on its side. Everything has internal
// linkage, since files of several instruction sets include this.
#pragma once

#include <cstdint>
#include <cstring>

#include "tiles/geometry.hpp"

namespace tilepress {
namespace {

typedef uint32_t Words4 __attribute__((vector_size(16)));

inline __attribute__((always_inline)) void transpose(Words4 (&w)[4]) {
    const Words4 low01 = __builtin_shufflevector(w[0], w[1], 0, 4, 1, 5);
    const Words4 high01 = __builtin_shufflevector(w[0], w[1], 2, 6, 3, 7);
    const Words4 low23 = __builtin_shufflevector(w[2], w[3], 0, 4, 1, 5);
    const Words4 high23 = __builtin_shufflevector(w[2], w[3], 2, 6, 3, 7);
    w[0] = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
    w[1] = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
    w[2] = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
    w[3] = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
}

// `fractals` that stand side by side; row r begins at rows + r * stride.
inline void symbols_to_rows(const uint8_t* symbols, int fractals, uint8_t* rows, int64_t stride) {
    for (int row = 0; row < kFractalRows; row += 4, symbols += 16, rows += 4 * stride) {
        for (int group = 0; group < 8 * fractals; group += 4) {
            Words4 words[4];
            for (int i = 0; i < 4; ++i) std::memcpy(&words[i], symbols + 64 * (group + i), 16);
            transpose(words);
            for (int i = 0; i < 4; ++i) std::memcpy(rows + i * stride + 4 * group, &words[i], 16);
        }
    }
}

inline void rows_to_symbols(const uint8_t* rows, int64_t stride, int fractals, uint8_t* symbols) {
    for (int row = 0; row < kFractalRows; row += 4, symbols += 16, rows += 4 * stride) {
        for (int group = 0; group < 8 * fractals; group += 4) {
            Words4 words[4];
            for (int i = 0; i < 4; ++i) std::memcpy(&words[i], rows + i * stride + 4 * group, 16);
            transpose(words);
            for (int i = 0; i < 4; ++i) std::memcpy(symbols + 64 * (group + i), &words[i], 16);
        }
    }
}

}  // namespace
}  // namespace tilepress
