#include "codec/level_codes.hpp"

#include <algorithm>
#include <cstring>

namespace tilepress {

LevelCodes::LevelCodes(const TilePlan& plan, int level) {
    const int width = plan.width[level], values = plan.values[level];
    if (width == 8) {
        table_size = 0;
        for (int symbol = 0; symbol < 256; ++symbol) code[symbol] = static_cast<uint8_t>(symbol);
        return;
    }
    int8_t sorted[128];
    std::copy_n(plan.ranked + plan.first[level], values, sorted);
    std::sort(sorted, sorted + values);
    const bool terminal = level + 1 == plan.levels;
    table_size = terminal ? 1 << width : values;
    std::memset(code, terminal ? 0 : values, sizeof code);
    for (int at = 0; at < table_size; ++at) {
        table[at] = static_cast<uint8_t>(sorted[std::min(at, values - 1)]);
        if (at < values) code[table[at]] = static_cast<uint8_t>(at);
    }
}

}  // namespace tilepress
