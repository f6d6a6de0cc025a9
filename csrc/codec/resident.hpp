// int8 matrix to the resident form: tiles of one level, of a run of values, and patches for what lies outside it.
#pragma once

#include <cstdint>
#include <vector>

#include "tiles/geometry.hpp"

namespace tilepress {

// Codes of `width` bits for the values from `low` on, raw bytes for width 8, and `patches` for others. In the tile of
// `bytes` bytes the table of values begins at `header`.
struct ResidentPlan {
    int width, low;
    uint32_t patches, header, bytes;
};

// Plans every tile of the matrix (geometry.n rows of geometry.k values, row by row), in index order.
std::vector<ResidentPlan> plan_resident(const int8_t* matrix, const Geometry& geometry, int threads);

// The lengths of the weight and index tensors.
uint64_t weight_bytes(const std::vector<ResidentPlan>& plans);
uint64_t index_bytes(const std::vector<ResidentPlan>& plans);

// Fills `weight` and `index`, of these lengths. Bytes depend on the matrix and the tiling alone.
void write_resident(const int8_t* matrix, const Geometry& geometry, const std::vector<ResidentPlan>& plans, int threads,
                    uint8_t* weight, uint8_t* index);

}  // namespace tilepress
