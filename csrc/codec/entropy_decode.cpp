#include "codec/entropy_decode.hpp"

#include <algorithm>
#include <atomic>
#include <string>

#include "simd/isa.hpp"
#include "simd/kernels.hpp"
#include "threads/tasks.hpp"
#include "tiles/bitstream_error.hpp"

namespace tilepress {

namespace {

// Entries as EntropyBlock::slots wants them.
std::vector<uint32_t> make_slots(const std::vector<ClassTable>& tables) {
    std::vector<uint32_t> slots(tables.size() * kTotal);
    uint32_t* next = slots.data();
    for (const ClassTable& table : tables) {
        table.for_each([&](uint8_t value, int frequency, int) {
            const uint32_t first = static_cast<uint32_t>(value) | static_cast<uint32_t>(frequency) << 20;
            for (int place = 0; place < frequency; ++place) next[place] = first + (static_cast<uint32_t>(place) << 8);
            next += frequency;
        });
    }
    return slots;
}

void shift_scales(std::vector<int32_t>& scales, int shift) {
    for (int32_t& scale : scales) scale *= 1 << (kTotalBits - shift);
}

}  // namespace

void decode_entropy(const EntropyTensor& tensor, int threads, int8_t* matrix) {
    const EntropyHead& head = tensor.head;
    const std::vector<uint32_t> slots = make_slots(head.tables);
    std::vector<int32_t> columns = head.columns;
    shift_scales(columns, head.shift);
    const Kernels& run = isa().kernels;
    std::atomic<int64_t> first_bad = tensor.blocks();
    parallel_for_throwing(tensor.blocks(), threads, [&](int64_t number) {
        EntropyBlockView view;
        bool good = tensor.parse(number, view) == nullptr;
        if (good) {
            shift_scales(view.rows, head.shift);
            const EntropyBlock block{.slots = slots.data(),
                                     .rows = view.rows.data(),
                                     .columns = columns.data(),
                                     .top = static_cast<int32_t>(slots.size()) - 1,
                                     .n = tensor.rows_of(number),
                                     .k = tensor.k,
                                     .states = view.states,
                                     .escapes = view.escapes,
                                     .escapes_end = view.escapes_end,
                                     .words = view.words,
                                     .words_end = view.words_end};
            const int64_t first = number * tensor.block_rows * tensor.k;
            good = run.decode_entropy(block, reinterpret_cast<uint8_t*>(matrix) + first);
        }
        if (!good) {
            int64_t before = first_bad;
            while (number < before && !first_bad.compare_exchange_weak(before, number)) {
            }
        }
    });
    if (first_bad < tensor.blocks()) {
        throw BitstreamError("block " + std::to_string(first_bad) +
                             ": its codes do not end as they began; the bytes are damaged");
    }
}

}  // namespace tilepress
