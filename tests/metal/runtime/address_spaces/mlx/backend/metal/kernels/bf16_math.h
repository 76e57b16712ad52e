// In place of MLX's header, which reaches into Apple's compiler: <metal_math> and <metal_simdgroup> here already have the
// functions of bfloat.
#pragma once
