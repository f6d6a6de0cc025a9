// What the parts of the native module add to it.
#pragma once

#include <nanobind/nanobind.h>

namespace tilepress {

void bind_codec(nanobind::module_& m);
void bind_entropy(nanobind::module_& m);
void bind_decoder(nanobind::module_& m);
void bind_kernels(nanobind::module_& m);
void bind_quantize(nanobind::module_& m);
void bind_bench(nanobind::module_& m);

}  // namespace tilepress
