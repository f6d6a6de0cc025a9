// int8 matrix to compressed tensor. Bytes depend on the matrix and the tiling alone, never on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "tiles/geometry.hpp"
#include "tiles/tile_plan.hpp"

namespace tilepress {

// Plans every tile of the matrix (geometry.n rows of geometry.k values, row by row), in index order.
std::vector<TilePlan> plan_tiles(const int8_t* matrix, const Geometry& geometry, int threads);

// The length of the weight tensor.
uint64_t weight_bytes(const std::vector<TilePlan>& plans);

// Fills `weight`, weight_bytes(plans) bytes, and `index`, 8 * plans.size() bytes.
void write_tiles(const int8_t* matrix, const Geometry& geometry, const std::vector<TilePlan>& plans, int threads,
                 uint8_t* weight, uint8_t* index);

}  // namespace tilepress
