# bash completion for luapool(1). tests/test_manual.lua sees to it that it knows every option.

# _luapool_values OPTION -- what can stand behind it; returns 1 if that is nothing in particular.
_luapool_values() {
  case $1 in
    -j | --workers | --jobs) echo auto 0 1 2 4 8 16 ;;
    --chunk | --buffer) echo auto ;;
    --nice) echo idle 5 10 19 ;;
    --start) echo fork server spawn auto ;;
    --on-crash) echo raise retry skip ;;
    --output) echo line tag order discard ;;
    --progress | --color) echo auto always never ;;
    --halt) echo never now,fail=1 soon,fail=1 now,success=1 ;;
    --resume) echo failed ;;
    *) return 1 ;;
  esac
}

# Is there a word map, filter or reduce before the one that is typed?
_luapool_word() {
  local i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      map | filter | reduce) return 0 ;;
    esac
  done
  return 1
}

_luapool() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} values options
  COMPREPLY=()
  if [[ $current == = ]]; then # --option= with nothing behind it
    current=
  elif [[ $previous == = ]]; then
    previous=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  if values=$(_luapool_values "$previous") && [[ $previous != --resume && $previous != --progress && $previous != --color ||
    ${COMP_WORDS[COMP_CWORD - 1]} == = || ${COMP_WORDS[COMP_CWORD]} == = ]]; then
    COMPREPLY=($(compgen -W "$values" -- "$current"))
    return
  fi
  case $previous in
    -t | --timeout | -m | --memory | -H | --hosts | --mpirun | --grace | --deadline | --seed | --retries | --retry-delay | --max-tasks | --max-growth | --idle-timeout | --load | --memfree | -e | --cmd | -C | --colsep | -N | --max-args) return ;;
    --log | --trace | --report | --joblog | -f | --file | --shell)
      compopt -o filenames 2>/dev/null
      COMPREPLY=($(compgen -f -- "$current"))
      return
      ;;
  esac
  if [[ $current == -* ]]; then
    options='-e -i -l -v -E -W -j --workers --start --max-tasks --max-growth --idle-timeout --load --memfree --nice --pin --seed --chunk --buffer -t --timeout -m --memory --grace --deadline --halt --retries --retry-delay
      --on-crash --output --progress --color -q --quiet --log --resume --trace --report --mpi -H --hosts --mpirun
      --help --version'
    if _luapool_word; then
      options='-0 --null --print0 --unordered -f --file --text --halt --joblog --resume --resume-failed --cmd -u --ungroup --tag -C --colsep -N --max-args --dry-run
        --shell -j --workers -t --timeout -m --memory --seed --retries --retry-delay --on-crash --grace --deadline --max-tasks --max-growth
        --idle-timeout --load --memfree --nice --pin --start --progress --color -q --quiet
        --trace --report --help'
    fi
    COMPREPLY=($(compgen -W "$options" -- "$current"))
    return
  fi
  compopt -o filenames 2>/dev/null
  COMPREPLY=($(compgen -f -- "$current"))
  ((COMP_CWORD == 1)) && COMPREPLY+=($(compgen -W 'map filter reduce' -- "$current"))
}

complete -F _luapool luapool
