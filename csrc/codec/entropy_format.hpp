// The entropy-coded form of a matrix (docs/reference/bitstream-v2.md): its numbers, and a checked view of its bytes.
#pragma once

#include <cstdint>
#include <vector>

namespace tilepress {

constexpr int64_t kBitstreamV2 = 0x54500002;
constexpr int kEntropyLanes = 32;
constexpr int kTotalBits = 11;
constexpr int kTotal = 1 << kTotalBits;  // of the frequencies of a class
constexpr int kMaxClasses = 32;
constexpr int kLargestMagnitude = 127;
constexpr uint8_t kEscape = 0x80;
constexpr uint32_t kLowestState = 1 << 16;
constexpr int kStateBytes = 4 * kEntropyLanes;
constexpr int kMaxShift = 7;
constexpr int kMaxRiceParameter = 8;
constexpr int kMaxFolded = 1023;

// Codes 0 to 127 are frequencies 0 to 1984.
constexpr int frequency(int code) { return code < 16 ? code : (16 + (code & 15)) << ((code >> 4) - 1); }

// The frequencies of a class, as codes: of the magnitudes 1 to `largest`, of either sign each, then of the escape.
struct ClassTable {
    int largest;
    uint8_t codes[kLargestMagnitude + 1];

    int frequency_of_escape() const { return frequency(codes[largest]); }
    // What the others leave. Negative in a table that is damaged.
    int frequency_of_zero() const {
        int left = kTotal - frequency_of_escape();
        for (int i = 0; i < largest; ++i) left -= 2 * frequency(codes[i]);
        return left;
    }
    // Calls symbol(value, frequency, first slot) for each symbol in the order of their slots, the escape last.
    template <typename Function>
    void for_each(Function&& symbol) const {
        int start = frequency_of_zero();
        symbol(uint8_t{0}, start, 0);
        for (int magnitude = 1; magnitude <= largest; ++magnitude) {
            const int each = frequency(codes[magnitude - 1]);
            symbol(static_cast<uint8_t>(magnitude), each, start);
            symbol(static_cast<uint8_t>(-magnitude), each, start + each);
            start += 2 * each;
        }
        symbol(kEscape, kTotal - start, start);
    }
};

// What all blocks share.
struct EntropyHead {
    int shift;
    std::vector<ClassTable> tables;
    std::vector<int32_t> columns;  // the scales of the columns
};

// The parts of a block. Bytes stay the tensor's.
struct EntropyBlockView {
    const uint8_t* states;
    std::vector<int32_t> rows;  // the scales of the rows
    const uint8_t *escapes, *escapes_end;
    const uint8_t *words, *words_end;
};

struct EntropyTensor {
    int64_t n, k;
    int64_t block_rows;
    const uint8_t* weight;
    uint64_t weight_bytes;
    const uint8_t* index;
    EntropyHead head;

    int64_t blocks() const { return (n + block_rows - 1) / block_rows; }
    int64_t rows_of(int64_t block) const {
        const int64_t left = n - block * block_rows;
        return left < block_rows ? left : block_rows;
    }
    uint64_t begin_of(int64_t block) const;
    uint64_t end_of(int64_t block) const;

    // Null, or what is wrong with the block's header.
    const char* parse(int64_t block, EntropyBlockView& view) const;
};

// Checks info, index and the head, not the blocks. Throws BitstreamError. The bytes stay the caller's.
EntropyTensor open_entropy(const uint8_t* weight, uint64_t weight_bytes, const uint8_t* index, uint64_t index_bytes,
                           const int64_t* info, uint64_t info_length);

// Checks the headers of all blocks. Throws BitstreamError with the number of the first block that is wrong.
void check_entropy(const EntropyTensor& tensor);

}  // namespace tilepress
