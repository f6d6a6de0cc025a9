#include "codec/entropy_encode.hpp"

#include <algorithm>
#include <memory>

#include "codec/entropy_format.hpp"
#include "codec/entropy_model.hpp"
#include "threads/tasks.hpp"
#include "tiles/little_endian.hpp"

namespace tilepress {

namespace {

constexpr int kTogether = 64;  // columns that are turned to the order of the codes at a time

void pad_to_line(std::vector<uint8_t>& bytes) { bytes.resize((bytes.size() + 63) / 64 * 64); }

// Blocks of 2^17 weights, up to four of them; then of more, as their states cost bytes, up to 2^19.
int64_t choose_block_rows(int64_t n, int64_t k) {
    const int64_t weights = n * k;
    const int64_t blocks = std::max({int64_t{1}, std::min<int64_t>(weights >> 17, 4), weights >> 19});
    return (n + kEntropyLanes * blocks - 1) / (kEntropyLanes * blocks) * kEntropyLanes;
}

uint64_t folded(int32_t value, int32_t base) {
    return value >= base ? 2 * static_cast<uint64_t>(value - base) : 2 * static_cast<uint64_t>(base - value) - 1;
}

// Around the median, with the parameter that takes the fewest bits.
void append_scales(const int32_t* values, int64_t count, std::vector<uint8_t>& out) {
    std::vector<int32_t> sorted(values, values + count);
    const auto middle = sorted.begin() + (count - 1) / 2;
    std::nth_element(sorted.begin(), middle, sorted.end());
    const int32_t base = *middle;
    int parameter = 0;
    uint64_t fewest = UINT64_MAX;
    for (int p = 0; p <= kMaxRiceParameter; ++p) {
        uint64_t bits = 0;
        for (int64_t i = 0; i < count; ++i) bits += (folded(values[i], base) >> p) + 1 + static_cast<uint64_t>(p);
        if (bits < fewest) {
            fewest = bits;
            parameter = p;
        }
    }
    out.push_back(static_cast<uint8_t>(base));
    out.push_back(static_cast<uint8_t>(base >> 8));
    out.push_back(static_cast<uint8_t>(parameter));
    size_t bit = 8 * out.size();
    out.resize(out.size() + (fewest + 7) / 8);
    for (int64_t i = 0; i < count; ++i) {
        const uint64_t value = folded(values[i], base);
        for (uint64_t one = 0; one < value >> parameter; ++one, ++bit)
            out[bit / 8] |= static_cast<uint8_t>(1 << bit % 8);
        ++bit;
        for (int p = 0; p < parameter; ++p, ++bit) {
            out[bit / 8] |= static_cast<uint8_t>((value >> p & 1) << bit % 8);
        }
    }
}

std::vector<uint8_t> make_head(const EntropyHead& head) {
    std::vector<uint8_t> bytes{static_cast<uint8_t>(head.shift), static_cast<uint8_t>(head.tables.size())};
    for (const ClassTable& table : head.tables) {
        bytes.push_back(static_cast<uint8_t>(table.largest));
        bytes.insert(bytes.end(), table.codes, table.codes + table.largest + 1);
    }
    append_scales(head.columns.data(), static_cast<int64_t>(head.columns.size()), bytes);
    pad_to_line(bytes);
    return bytes;
}

// A state is below 2^21 times the frequency where it is divided, so that this is exact and does not overflow.
constexpr int kReciprocalBits = 43;

struct Coded {
    uint64_t reciprocal;  // 2^43 / frequency, rounded up
    uint16_t frequency, start;
    bool escapes;
};

// How each of the 256 values is coded, class by class.
std::vector<Coded> make_codes(const std::vector<ClassTable>& tables) {
    std::vector<Coded> codes(256 * tables.size());
    for (size_t label = 0; label < tables.size(); ++label) {
        Coded* const own = codes.data() + 256 * label;
        tables[label].for_each([&](uint8_t value, int frequency, int start) {
            if (frequency == 0) return;
            const uint64_t divisor = static_cast<uint64_t>(frequency);
            own[value] = {((uint64_t{1} << kReciprocalBits) + divisor - 1) / divisor, static_cast<uint16_t>(frequency),
                          static_cast<uint16_t>(start), value == kEscape};
        });
        for (int value = 0; value < 256; ++value) {
            if (own[value].frequency == 0) own[value] = own[kEscape];
        }
    }
    return codes;
}

// Codes one block, from its last value to its first.
class BlockEncoder {
  public:
    BlockEncoder(const EntropyHead& head, const std::vector<Coded>& codes, int64_t k)
        : head_(head), codes_(codes), k_(k) {
        std::fill_n(states_, kEntropyLanes, kLowestState);
    }

    std::vector<uint8_t> encode(const int8_t* matrix, const int32_t* rows, int64_t n) {
        // A value takes a word at most.
        const size_t room = static_cast<size_t>(n * k_);
        const std::unique_ptr<uint16_t[]> buffer(new uint16_t[room]);
        first_word_ = buffer.get() + room;
        for (int64_t top = (n - 1) / kEntropyLanes * kEntropyLanes; top >= 0; top -= kEntropyLanes) {
            const int lanes = static_cast<int>(std::min<int64_t>(kEntropyLanes, n - top));
            for (int64_t left = (k_ - 1) / kTogether * kTogether; left >= 0; left -= kTogether) {
                code_columns(matrix + top * k_, rows + top, lanes, left);
            }
        }
        const size_t words = static_cast<size_t>(buffer.get() + room - first_word_);
        std::vector<uint8_t> block(kStateBytes + 16);
        for (int lane = 0; lane < kEntropyLanes; ++lane) {
            store_u16(block.data() + 4 * lane, static_cast<uint16_t>(states_[lane]));
            store_u16(block.data() + 4 * lane + 2, static_cast<uint16_t>(states_[lane] >> 16));
        }
        store_u64(block.data() + kStateBytes, words);
        store_u64(block.data() + kStateBytes + 8, escaped_.size());
        append_scales(rows, n, block);
        block.insert(block.end(), escaped_.rbegin(), escaped_.rend());
        const size_t begin = block.size();
        block.resize(begin + 2 * words);
        for (size_t i = 0; i < words; ++i) store_u16(block.data() + begin + 2 * i, first_word_[i]);
        pad_to_line(block);
        return block;
    }

  private:
    void code_columns(const int8_t* matrix, const int32_t* rows, int lanes, int64_t left) {
        const int columns = static_cast<int>(std::min<int64_t>(kTogether, k_ - left));
        uint8_t turned[kTogether][kEntropyLanes];
        for (int lane = 0; lane < lanes; ++lane) {
            for (int j = 0; j < columns; ++j) turned[j][lane] = static_cast<uint8_t>(matrix[lane * k_ + left + j]);
        }
        const Coded* const codes = codes_.data();
        const int shift = head_.shift;
        const int32_t last_class = static_cast<int32_t>(head_.tables.size()) - 1;
        uint32_t states[kEntropyLanes];
        std::copy_n(states_, kEntropyLanes, states);
        uint16_t* word = first_word_;
        for (int j = columns - 1; j >= 0; --j) {
            const int32_t column = head_.columns[static_cast<size_t>(left + j)];
            for (int lane = lanes - 1; lane >= 0; --lane) {
                const uint8_t value = turned[j][lane];
                const int32_t label = std::clamp((rows[lane] + column) >> shift, 0, last_class);
                const Coded& code = codes[256 * label + value];
                if (code.escapes) [[unlikely]]
                    escaped_.push_back(value);
                uint32_t state = states[lane];
                // Without a branch: one in four gives a word, and nothing tells which.
                const bool full = state >> (32 - kTotalBits) >= code.frequency;
                word[-1] = static_cast<uint16_t>(state);
                word -= full;
                state >>= 16 * full;
                const uint32_t quotient = static_cast<uint32_t>(state * code.reciprocal >> kReciprocalBits);
                // quotient * 2048 + remainder + start
                states[lane] = state + code.start + quotient * (kTotal - code.frequency);
            }
        }
        std::copy_n(states, kEntropyLanes, states_);
        first_word_ = word;
    }

    const EntropyHead& head_;
    const std::vector<Coded>& codes_;
    const int64_t k_;
    uint32_t states_[kEntropyLanes];
    uint16_t* first_word_ = nullptr;
    std::vector<uint8_t> escaped_;
};

}  // namespace

EntropyBytes encode_entropy(const int8_t* matrix, int64_t n, int64_t k, int threads) {
    const EntropyModel model = choose_entropy_model(matrix, n, k, threads);
    const std::vector<Coded> codes = make_codes(model.head.tables);
    EntropyBytes bytes{choose_block_rows(n, k), make_head(model.head), {}};
    std::vector<std::vector<uint8_t>> blocks(static_cast<size_t>((n + bytes.block_rows - 1) / bytes.block_rows));
    parallel_for_throwing(static_cast<int64_t>(blocks.size()), threads, [&](int64_t number) {
        const int64_t top = number * bytes.block_rows;
        BlockEncoder encoder(model.head, codes, k);
        blocks[static_cast<size_t>(number)] =
            encoder.encode(matrix + top * k, model.rows.data() + top, std::min(bytes.block_rows, n - top));
    });
    size_t length = bytes.weight.size();
    for (const auto& block : blocks) length += block.size();
    bytes.weight.reserve(length);
    bytes.index.resize(8 * blocks.size());
    for (size_t number = 0; number < blocks.size(); ++number) {
        store_u64(bytes.index.data() + 8 * number, bytes.weight.size());
        bytes.weight.insert(bytes.weight.end(), blocks[number].begin(), blocks[number].end());
    }
    return bytes;
}

}  // namespace tilepress
