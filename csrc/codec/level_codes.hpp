// One level of a tile as its encoder sees it: from symbols to codes.
#pragma once

#include <cstdint>

#include "tiles/tile_plan.hpp"

namespace tilepress {

struct LevelCodes {
    uint8_t table[128];  // as it stands in the tile
    int table_size;
    uint8_t code[256];  // of each symbol; the escape, or 0 in a terminal level, for those that are not in the table

    LevelCodes(const TilePlan& plan, int level);

    // The code behind those of the table, in a level that is not terminal.
    uint8_t escape() const { return static_cast<uint8_t>(table_size); }
};

}  // namespace tilepress
