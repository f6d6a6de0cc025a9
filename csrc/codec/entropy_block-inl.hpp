// Decoding a block of the entropy-coded form, with the including file's
//
//     struct Lanes {
//         explicit Lanes(const EntropyBlock& block);
//         void begin(const int32_t* rows, int count);
//         template <bool kWhole>
//         void step(int32_t column, const uint8_t*& words, uint8_t* symbols);
//         bool ended() const;
//     };
//     uint64_t escapes_among(const uint8_t* symbols);
//
// begin() turns to the next `count` rows, and step() decodes their values in one column: it writes 32 symbols, those of
// lanes without a row 0, moves `words` by up to 64 bytes and reads no more. kWhole: every lane has a row. ended(): all
// states are as the encoder began with. escapes_among() has a bit for each of 64 symbols.
#pragma once

#include <algorithm>
#include <cstring>

#include "codec/entropy_format.hpp"
#include "simd/kernels.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

constexpr int kStepWords = 2 * kEntropyLanes;  // bytes
constexpr int kTogether = 64;                  // columns that are decoded before they are put to rows: cache lines

// The words of a block. Close to its end, steps read from a copy that has room behind it.
struct WordSource {
    const uint8_t* next;
    const uint8_t* end;
    int64_t needed = kStepWords;
    uint8_t last[2 * kStepWords] = {};

    // False once steps have taken more words than there are.
    TILEPRESS_INLINE bool ready() {
        if (end - next >= needed) [[likely]]
            return true;
        if (needed == 0) return false;
        const int64_t left = end - next;
        std::memcpy(last, next, static_cast<size_t>(left));
        next = last;
        end = last + left;
        needed = 0;
        return true;
    }
};

typedef uint8_t Sixteen __attribute__((vector_size(16)));

// 16 columns of 16 symbols, kEntropyLanes apart, to 16 rows that are kTogether apart.
TILEPRESS_INLINE void transpose_16(const uint8_t* from, uint8_t* to) {
    Sixteen a[16], b[16];
    for (int i = 0; i < 16; ++i) std::memcpy(&a[i], from + kEntropyLanes * i, 16);
    for (int round = 0; round < 4; ++round) {
        for (int i = 0; i < 8; ++i) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * i + 1] =
                __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        std::memcpy(a, b, sizeof a);
    }
    for (int i = 0; i < 16; ++i) std::memcpy(to + kTogether * i, &a[i], 16);
}

// Puts escaped values to their places. False if there are fewer than places.
TILEPRESS_INLINE bool fill_escapes(uint8_t* symbols, int count, const uint8_t*& escapes, const uint8_t* end) {
    for (int at = 0; at < count; at += 64) {
        for (uint64_t found = escapes_among(symbols + at); found != 0; found &= found - 1) {
            if (escapes == end) return false;
            symbols[at + __builtin_ctzll(found)] = *escapes++;
        }
    }
    return true;
}

// Decodes up to 32 rows to `out`, which are block.k apart there.
template <bool kWhole>
bool decode_lanes(const EntropyBlock& block, int rows, Lanes& kept, WordSource& words, const uint8_t*& escapes,
                  uint8_t* out) {
    alignas(64) uint8_t symbols[kTogether * kEntropyLanes];
    alignas(64) uint8_t turned[kEntropyLanes * kTogether];
    Lanes lanes = kept;  // in registers
    for (int64_t left = 0; left < block.k; left += kTogether) {
        const int columns = static_cast<int>(std::min<int64_t>(kTogether, block.k - left));
        for (int j = 0; j < columns; ++j) {
            if (!words.ready()) return false;
            lanes.template step<kWhole>(block.columns[left + j], words.next, symbols + kEntropyLanes * j);
        }
        if (columns < kTogether)
            std::memset(symbols + kEntropyLanes * columns, 0, sizeof symbols - kEntropyLanes * columns);
        if (!fill_escapes(symbols, kEntropyLanes * columns, escapes, block.escapes_end)) return false;
        for (int j = 0; j < columns; j += 16) {
            transpose_16(symbols + kEntropyLanes * j, turned + j);
            transpose_16(symbols + kEntropyLanes * j + 16, turned + 16 * kTogether + j);
        }
        uint8_t* to = out + left;
        if (kWhole && columns == kTogether) {
            for (int row = 0; row < kEntropyLanes; ++row) std::memcpy(to + row * block.k, turned + kTogether * row, 64);
        } else {
            for (int row = 0; row < rows; ++row) {
                std::memcpy(to + row * block.k, turned + kTogether * row, static_cast<size_t>(columns));
            }
        }
    }
    kept = lanes;
    return true;
}

bool decode_entropy(const EntropyBlock& block, uint8_t* matrix) {
    Lanes lanes(block);
    WordSource words{block.words, block.words_end};
    const uint8_t* escapes = block.escapes;
    for (int64_t top = 0; top < block.n; top += kEntropyLanes) {
        const int rows = static_cast<int>(std::min<int64_t>(kEntropyLanes, block.n - top));
        lanes.begin(block.rows + top, rows);
        uint8_t* const out = matrix + top * block.k;
        const bool good = rows == kEntropyLanes ? decode_lanes<true>(block, rows, lanes, words, escapes, out)
                                                : decode_lanes<false>(block, rows, lanes, words, escapes, out);
        if (!good) return false;
    }
    return words.next == words.end && escapes == block.escapes_end && lanes.ended();
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
