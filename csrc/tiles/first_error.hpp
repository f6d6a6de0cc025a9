// Damage met by tasks that run at the same time: the one in the first tile is reported, whoever found it.
#pragma once

#include <mutex>
#include <string>

#include "tiles/bitstream_error.hpp"
#include "tiles/geometry.hpp"
#include "tiles/tile_view.hpp"

namespace tilepress {

class FirstError {
  public:
    void header(const Geometry& geometry, int64_t i, int64_t j, TileError error) {
        keep(i * geometry.k_index + j, [&] { return BitstreamError(i, j, describe(error)); });
    }

    void escapes(const Geometry& geometry, int64_t i, int64_t j, int level) {
        keep(i * geometry.k_index + j, [&] {
            const std::string what = "the escapes of level " + std::to_string(level) +
                                     " are not as many as the codes of level " + std::to_string(level + 1) +
                                     "; the bytes are damaged";
            return BitstreamError(i, j, what.c_str());
        });
    }

    void raise() const {
        if (tile_ >= 0) throw BitstreamError(message_);
    }

  private:
    template <typename MakeError>
    void keep(int64_t tile, MakeError&& make_error) {
        std::lock_guard lock(mutex_);
        if (tile_ >= 0 && tile_ <= tile) return;
        tile_ = tile;
        message_ = make_error().what();
    }

    std::mutex mutex_;
    int64_t tile_ = -1;
    std::string message_;
};

}  // namespace tilepress
