#include "codec/entropy_tables.hpp"

#include <algorithm>
#include <bit>
#include <numeric>

namespace tilepress {

namespace {

constexpr int kLogBits = 16;

// The logarithm in units of 2^-16, rounded down.
constexpr uint32_t fixed_log2(uint32_t value) {
    uint32_t result = static_cast<uint32_t>(std::bit_width(value)) - 1;
    uint64_t mantissa = static_cast<uint64_t>(value) << (31 - result);
    for (int bit = 0; bit < kLogBits; ++bit) {
        mantissa = mantissa * mantissa >> 31;
        const uint32_t carry = static_cast<uint32_t>(mantissa >> 32);
        result = result << 1 | carry;
        mantissa >>= carry;
    }
    return result;
}

// Bits of a symbol by its frequency, in units of 2^-16.
constexpr std::array<uint32_t, kTotal + 1> kBits = [] {
    std::array<uint32_t, kTotal + 1> bits{};
    for (uint32_t each = 1; each <= kTotal; ++each) bits[each] = (kTotalBits << kLogBits) - fixed_log2(each);
    return bits;
}();

int nearest_code(uint64_t wanted) {
    const int exponent = std::max(static_cast<int>(std::bit_width(wanted)) - 5, 0);
    const int mantissa = static_cast<int>((wanted + (uint64_t{1} << exponent >> 1)) >> exponent);
    return mantissa < 16 ? mantissa : std::min(16 * exponent + mantissa, 127);
}

// The code of count / total * slots, at least 1 for what occurs.
uint8_t share(uint64_t count, uint64_t total, uint64_t slots) {
    if (count == 0) return 0;
    const auto rounded =
        static_cast<uint64_t>((static_cast<unsigned __int128>(2 * slots) * count + total) / (2 * total));
    return static_cast<uint8_t>(nearest_code(std::max<uint64_t>(rounded, 1)));
}

// Lowers the highest codes until there is room for 0.
void make_room_for_zero(ClassTable& table, int needed) {
    while (table.frequency_of_zero() < needed) --*std::max_element(table.codes, table.codes + table.largest + 1);
}

uint64_t cost_of(const MagnitudeCounts& counts, const ClassTable& table, uint64_t escaped) {
    uint64_t cost = counts[0] * kBits[static_cast<size_t>(table.frequency_of_zero())];
    for (int i = 0; i < table.largest; ++i) {
        cost += counts[static_cast<size_t>(i + 1)] * kBits[static_cast<size_t>(frequency(table.codes[i]))];
    }
    cost += escaped * ((8 << kLogBits) + kBits[static_cast<size_t>(table.frequency_of_escape())]);
    return cost + (static_cast<uint64_t>(8 * (table.largest + 2)) << kLogBits);
}

MagnitudeCounts sum(const MagnitudeCounts& a, const MagnitudeCounts& b) {
    MagnitudeCounts both;
    for (size_t i = 0; i < both.size(); ++i) both[i] = a[i] + b[i];
    return both;
}

}  // namespace

CheapestTable cheapest_table(const MagnitudeCounts& counts) {
    const uint64_t total = std::accumulate(counts.begin(), counts.end(), uint64_t{0});
    ClassTable table{};
    if (total == 0) return {uint64_t{16} << kLogBits, table};
    int top = kLargestMagnitude;
    while (top > 0 && counts[static_cast<size_t>(top)] == 0) --top;
    uint8_t codes[kLargestMagnitude];
    for (int i = 0; i < top; ++i) codes[i] = share(counts[static_cast<size_t>(i + 1)], total, kTotal / 2);

    CheapestTable best{UINT64_MAX, {}};
    uint64_t escaped = total - counts[0];
    for (int largest = 0; largest <= top; ++largest) {
        if (largest > 0) escaped -= counts[static_cast<size_t>(largest)];
        if (largest < top && escaped > total / 8) continue;
        table.largest = largest;
        std::copy_n(codes, largest, table.codes);
        table.codes[largest] = share(escaped, total, kTotal);
        make_room_for_zero(table, counts[0] > 0 ? 1 : 0);
        const uint64_t cost = cost_of(counts, table, escaped);
        if (cost < best.cost) best = {cost, table};
    }
    return best;
}

MergedClasses merge_ends(std::vector<MagnitudeCounts> classes) {
    std::vector<CheapestTable> tables;
    for (const MagnitudeCounts& counts : classes) tables.push_back(cheapest_table(counts));
    int merged_below = 0;
    while (classes.size() > 1) {
        const size_t last = classes.size() - 1;
        const MagnitudeCounts low = sum(classes[0], classes[1]), high = sum(classes[last - 1], classes[last]);
        const CheapestTable low_table = cheapest_table(low), high_table = cheapest_table(high);
        const int64_t low_gain = static_cast<int64_t>(tables[0].cost + tables[1].cost - low_table.cost);
        const int64_t high_gain = static_cast<int64_t>(tables[last - 1].cost + tables[last].cost - high_table.cost);
        if (std::max(low_gain, high_gain) < 0 && classes.size() <= kMaxClasses) break;
        if (high_gain > low_gain) {
            classes.pop_back();
            tables.pop_back();
            classes.back() = high;
            tables.back() = high_table;
        } else {
            classes.erase(classes.begin());
            tables.erase(tables.begin());
            classes.front() = low;
            tables.front() = low_table;
            ++merged_below;
        }
    }
    MergedClasses merged{0, merged_below, {}};
    for (const CheapestTable& each : tables) {
        merged.cost += each.cost;
        merged.tables.push_back(each.table);
    }
    return merged;
}

}  // namespace tilepress
