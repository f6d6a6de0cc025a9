// Damage found in compressed bytes. Python sees tilepress.errors.BitstreamError (module.cpp translates).
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace tilepress {

struct BitstreamError : std::runtime_error {
    using std::runtime_error::runtime_error;

    BitstreamError(int64_t i, int64_t j, const char* what)
        : std::runtime_error("tile (" + std::to_string(i) + ", " + std::to_string(j) + "): " + what) {}
};

}  // namespace tilepress
