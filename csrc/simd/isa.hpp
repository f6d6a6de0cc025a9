// Which instruction set the kernels use, chosen once at run time.
#pragma once

#include <span>

#include "simd/encode_tile.hpp"

namespace tilepress {

struct Kernels;

struct Isa {
    const char* name;
    bool (*available)();  // does this processor have all that the build enables for it?
    const Kernels& kernels;
    EncodeTile& encode_tile;  // another set's where it has none of its own
};

// Every instruction set that kernels are built for, best first. The last is always available.
std::span<const Isa> isas();

// The first that is available, or the one that the environment variable TILEPRESS_ISA names. The first call decides;
// throws std::runtime_error when the variable's value is unknown or not available here.
const Isa& isa();

}  // namespace tilepress
