// What is compiled once for each instruction set that makes a difference to it: writing a tile.
#pragma once

#include <cstdint>

#include "tiles/tile_plan.hpp"

namespace tilepress {

// The symbols of a level and those that escape to the next, in turns. Levels are coded in whole blocks and vectors are
// stored whole, hence the slack.
struct EncodeBuffers {
    static constexpr int kSlack = 128;
    alignas(64) uint8_t symbols[2][kMaxTileSymbols + kSlack];
};

// Writes the tile whose symbols are in buffers.symbols[0] to plan.bytes bytes at `out`, all of them.
using EncodeTile = void(const TilePlan& plan, TileShape shape, EncodeBuffers& buffers, uint8_t* out);

}  // namespace tilepress
