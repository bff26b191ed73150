# Sourced by the other scripts: installs Debian packages where we may. Returns nonzero, and says nothing, where we may not.

apt_install() {
    command -v apt-get >/dev/null || return 1
    local root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || return 1
        root=(sudo)
        [ -t 0 ] || root=(sudo -n)  # nobody is there to type a password
        "${root[@]}" true 2>/dev/null || return 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    echo "dualml: apt-get install $* ..."
    "${root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
        { "${root[@]}" apt-get update -qq >/dev/null 2>&1 &&
          "${root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1; }
}
