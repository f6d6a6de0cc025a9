// Reading memory as fast as it goes: what the kernels' speed is compared with.
#pragma once

#include <cstdint>

namespace tilepress {

// Reads the whole 64-byte lines of [data, data + bytes) once, on at most `threads` threads. Data begins at a line.
// Returns the exclusive or of their 64-bit words, so that no compiler leaves the reading out.
uint64_t read_memory(const uint8_t* data, int64_t bytes, int threads);

}  // namespace tilepress
