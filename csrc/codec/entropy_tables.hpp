// Frequencies for a class of symbols of which only the magnitudes count.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "codec/entropy_format.hpp"

namespace tilepress {

// How often each magnitude from 0 to 128 occurs.
using MagnitudeCounts = std::array<uint64_t, kLargestMagnitude + 2>;

struct CheapestTable {
    uint64_t cost;  // of symbols and table, in bits times 2^16
    ClassTable table;
};

// The table that makes its symbols and itself shortest; of equal ones, the one with the fewest magnitudes.
CheapestTable cheapest_table(const MagnitudeCounts& counts);

struct MergedClasses {
    uint64_t cost;
    int merged_below;  // classes that the first one took in
    std::vector<ClassTable> tables;
};

// Merges the lowest or the highest two classes as long as that saves bytes, or there are more than 32.
MergedClasses merge_ends(std::vector<MagnitudeCounts> classes);

}  // namespace tilepress
