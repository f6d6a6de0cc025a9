// The one native module of tilepress: codec and CPU kernels.
#include <nanobind/nanobind.h>

#include "bindings.hpp"

NB_MODULE(_native, m) {
    m.doc() = "Native codec and CPU kernels of tilepress";
    tilepress::bind_codec(m);
    tilepress::bind_kernels(m);
}
