#include "codec/entropy_format.hpp"

#include <algorithm>
#include <string>

#include "tiles/bitstream_error.hpp"
#include "tiles/geometry.hpp"
#include "tiles/little_endian.hpp"
#include "tiles/tensor_view.hpp"

namespace tilepress {

namespace {

std::string number(int64_t value) { return std::to_string(value); }

uint64_t round_up_to_line(uint64_t value) { return (value + 63) / 64 * 64; }

// Reads from [next, end), never past it.
struct Reader {
    const uint8_t* next;
    const uint8_t* end;

    uint64_t left() const { return static_cast<uint64_t>(end - next); }
};

// Appends `count` scales to `values`. Null, or what is wrong.
const char* read_scales(Reader& reader, int64_t count, std::vector<int32_t>& values) {
    if (reader.left() < 3) return "the scales begin past the end";
    const int32_t base = static_cast<int16_t>(load_u16(reader.next));
    const int parameter = reader.next[2];
    if (parameter > kMaxRiceParameter) return "the scales have a parameter above 8";
    reader.next += 3;
    // Each takes a bit or more: this bounds the memory that they ask for.
    if (reader.left() < static_cast<uint64_t>(count) / 8) return "the scales reach past the end";
    values.reserve(values.size() + static_cast<size_t>(count));
    uint64_t bits = 0;
    int have = 0;
    const auto fill = [&] {
        for (; have <= 56 && reader.next < reader.end; have += 8) bits |= static_cast<uint64_t>(*reader.next++) << have;
    };
    for (int64_t i = 0; i < count; ++i) {
        int quotient = 0;
        for (;;) {
            fill();
            if (have == 0) return "the scales reach past the end";
            const int run = std::min(__builtin_ctzll(~bits | uint64_t{1} << 63), have);
            quotient += run;
            if (quotient > kMaxFolded) return "a scale is further than 1023 from the base";
            bits >>= run;
            have -= run;
            if (have > 0 && (bits & 1) == 0) break;
        }
        bits >>= 1;
        --have;
        fill();
        if (have < parameter) return "the scales reach past the end";
        const int folded = (quotient << parameter) + static_cast<int>(bits & ((1u << parameter) - 1));
        if (folded > kMaxFolded) return "a scale is further than 1023 from the base";
        bits >>= parameter;
        have -= parameter;
        values.push_back(base + (folded % 2 == 0 ? folded / 2 : -(folded + 1) / 2));
    }
    reader.next -= have / 8;
    return nullptr;
}

const char* read_table(Reader& reader, ClassTable& table) {
    if (reader.left() < 2) return "a table reaches past the end";
    table.largest = *reader.next++;
    if (table.largest > kLargestMagnitude) return "a table has a byte above 127";
    if (reader.left() < static_cast<uint64_t>(table.largest) + 1) return "a table reaches past the end";
    for (int i = 0; i <= table.largest; ++i) {
        table.codes[i] = *reader.next++;
        if (table.codes[i] > 127) return "a table has a byte above 127";
    }
    return table.frequency_of_zero() < 0 ? "the frequencies of a class sum up to more than 2048" : nullptr;
}

const char* read_head(Reader& reader, int64_t k, EntropyHead& head) {
    if (reader.left() < 2) return "it reaches past the first block";
    head.shift = *reader.next++;
    const int classes = *reader.next++;
    if (head.shift > kMaxShift) return "the shift is above 7";
    if (classes < 1 || classes > kMaxClasses) return "the classes are not 1 to 32";
    head.tables.resize(static_cast<size_t>(classes));
    for (ClassTable& table : head.tables) {
        if (const char* error = read_table(reader, table)) return error;
    }
    return read_scales(reader, k, head.columns);
}

}  // namespace

uint64_t EntropyTensor::begin_of(int64_t block) const { return load_u64(index + 8 * block); }

uint64_t EntropyTensor::end_of(int64_t block) const {
    return block + 1 < blocks() ? begin_of(block + 1) : weight_bytes;
}

const char* EntropyTensor::parse(int64_t block, EntropyBlockView& view) const {
    // Read again: a mapped file may have changed since the tensor was opened.
    const uint64_t from = begin_of(block), to = end_of(block);
    if (from >= to || to > weight_bytes) return "the offset is not between those beside it";
    const uint8_t* const begin = weight + from;
    const uint64_t size = to - from;
    if (size < kStateBytes + 16) return "it is shorter than its header";
    view.states = begin;
    for (int lane = 0; lane < kEntropyLanes; ++lane) {
        if (load_u16(begin + 4 * lane + 2) == 0) return "a state is below 65536";
    }
    const uint64_t words = load_u64(begin + kStateBytes), escapes = load_u64(begin + kStateBytes + 8);
    Reader reader{begin + kStateBytes + 16, begin + size};
    view.rows.clear();
    if (const char* error = read_scales(reader, rows_of(block), view.rows)) return error;
    // Each alone first, so that their sum cannot wrap.
    if (escapes > size || words > size || round_up_to_line(size - reader.left() + escapes + 2 * words) != size) {
        return "it does not end where the next one begins";
    }
    view.escapes = reader.next;
    view.words = view.escapes_end = view.escapes + escapes;
    view.words_end = view.words + 2 * words;
    return nullptr;
}

EntropyTensor open_entropy(const uint8_t* weight, uint64_t weight_bytes, const uint8_t* index, uint64_t index_bytes,
                           const int64_t* info, uint64_t info_length) {
    if (info_length != 5) throw BitstreamError("info has " + std::to_string(info_length) + " entries, not 5");
    const int64_t lanes = info[0], block_rows = info[1], k = info[2], n = info[3], version = info[4];
    if (version != kBitstreamV2) {
        throw BitstreamError("info[4] is " + number(version) + ", not " + number(kBitstreamV2) +
                             ": the tensor is not in the entropy-coded form, or damaged");
    }
    check_dimensions(n, k);
    if (lanes != kEntropyLanes || block_rows < 1 || block_rows > kMaxDimension || block_rows % kEntropyLanes != 0) {
        throw BitstreamError("info gives blocks of " + number(block_rows) + " rows in " + number(lanes) +
                             " lanes; there must be 32 lanes, and a multiple of 32 rows");
    }
    EntropyTensor tensor{n, k, block_rows, weight, weight_bytes, index, {}};
    if (index_bytes != 8 * static_cast<uint64_t>(tensor.blocks())) {
        throw BitstreamError("index has " + std::to_string(index_bytes) + " bytes, but a matrix of " + number(n) +
                             " rows has " + number(tensor.blocks()) + " blocks of 8");
    }
    for (int64_t block = 0; block < tensor.blocks(); ++block) {
        const uint64_t begin = tensor.begin_of(block);
        if (begin % 64 != 0 || begin == 0 || begin >= weight_bytes || begin >= tensor.end_of(block)) {
            throw BitstreamError("block " + number(block) +
                                 ": the offset is no multiple of 64, or not between those beside it");
        }
    }
    Reader reader{weight, weight + tensor.begin_of(0)};
    const char* error = read_head(reader, k, tensor.head);
    if (error == nullptr && round_up_to_line(static_cast<uint64_t>(reader.next - weight)) != tensor.begin_of(0)) {
        error = "it does not end where the first block begins";
    }
    if (error != nullptr) throw BitstreamError(std::string("the head: ") + error);
    return tensor;
}

void check_entropy(const EntropyTensor& tensor) {
    EntropyBlockView view;
    for (int64_t block = 0; block < tensor.blocks(); ++block) {
        if (const char* error = tensor.parse(block, view)) {
            throw BitstreamError("block " + number(block) + ": " + error);
        }
    }
}

}  // namespace tilepress
