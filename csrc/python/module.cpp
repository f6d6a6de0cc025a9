// The one native module of tilepress: codec, CPU kernels and rounding.
#include <nanobind/nanobind.h>

#include "python/bindings.hpp"
#include "tiles/bitstream_error.hpp"

namespace {

void translate_bitstream_error(const std::exception_ptr& pending, void*) {
    try {
        std::rethrow_exception(pending);
    } catch (const tilepress::BitstreamError& error) {
        const nanobind::object type = nanobind::module_::import_("tilepress.errors").attr("BitstreamError");
        PyErr_SetString(type.ptr(), error.what());
    }
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Native codec, CPU kernels and rounding of tilepress";
    nanobind::register_exception_translator(translate_bitstream_error);
    tilepress::bind_codec(m);
    tilepress::bind_entropy(m);
    tilepress::bind_decoder(m);
    tilepress::bind_kernels(m);
    tilepress::bind_quantize(m);
    tilepress::bind_bench(m);
}
