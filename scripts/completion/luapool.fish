# fish completion for luapool(1). tests/test_manual.lua sees to it that it knows every option.

function __luapool_has_word
    set -l words (commandline -opc)
    for word in $words[2..-1]
        contains -- $word map filter reduce; and return 0
    end
    return 1
end

set -l first 'not __luapool_has_word'

complete -c luapool -n $first -a 'map filter reduce' -d 'One-liner over lines'
complete -c luapool -n $first -s e -x -d 'Execute a string'
complete -c luapool -n $first -s i -d 'Interactive mode after the script'
complete -c luapool -n $first -s l -x -d 'Require a library'
complete -c luapool -n $first -s v -d 'Show version information'
complete -c luapool -n $first -s E -d 'Ignore environment variables'
complete -c luapool -n $first -s W -d 'Turn warnings on'
complete -c luapool -n $first -l chunk -x -a auto -d 'Items that a worker takes at a time'
complete -c luapool -n $first -l buffer -x -a auto -d 'Items that imap may be ahead of its loop'
complete -c luapool -n $first -l output -x -a 'line tag order discard' -d 'What tasks print'
complete -c luapool -n $first -l log -r -d 'Keep every finished item'
complete -c luapool -n $first -l resume -d 'Go on from the log (=failed: again what failed)'
complete -c luapool -n $first -l version -d 'Show what the program is and can do'

complete -c luapool -s j -l workers -x -a 'auto 0 1 2 4 8 16' -d 'How many workers'
complete -c luapool -l start -x -a 'fork server spawn auto' -d 'How workers start'
complete -c luapool -l max-tasks -x -d 'Replace a worker after so many items'
complete -c luapool -l max-growth -x -d 'Replace a worker that has grown by so much'
complete -c luapool -l idle-timeout -x -d 'Let an idle worker go after so many seconds'
complete -c luapool -l load -x -a '50% 75% 100%' -d 'Begin nothing while so many processes run'
complete -c luapool -l memfree -x -d 'Begin nothing while less memory is left'
complete -c luapool -l nice -x -a 'idle 5 10 19' -d 'Lower the priority of workers'
complete -c luapool -l pin -d 'Bind each worker to one processor'
complete -c luapool -l seed -x -d 'Random numbers by item'
complete -c luapool -s t -l timeout -x -d 'Seconds that an item may take'
complete -c luapool -s m -l memory -x -d 'What a worker may allocate (512M)'
complete -c luapool -l grace -x -d 'Seconds to clean up in'
complete -c luapool -l deadline -x -d 'Seconds that each call may take'
complete -c luapool -l retries -x -d 'Try a failed item again'
complete -c luapool -l retry-delay -x -d 'Wait so many seconds before the first retry'
complete -c luapool -l on-crash -x -a 'raise retry skip' -d 'An item that a worker does not survive'
complete -c luapool -l progress -d 'Show how far each call is (=auto, always, never)'
complete -c luapool -l color -d 'Colours (=auto, always, never)'
complete -c luapool -s q -l quiet -d 'No progress, no warnings of luapool'
complete -c luapool -l trace -r -d 'A timeline for Perfetto'
complete -c luapool -l report -r -d 'A page of HTML, where the time went'
complete -c luapool -l mpi -d 'Run on many machines, over MPI (=N: pretended ones)'
complete -c luapool -s H -l hosts -x -d 'The machines, over ssh'
complete -c luapool -l mpirun -x -d 'How to start the program on them'
complete -c luapool -l help -d 'Show all options'

complete -c luapool -n __luapool_has_word -s 0 -l null -d 'Lines end with NUL'
complete -c luapool -n __luapool_has_word -l print0 -d 'Results end with NUL'
complete -c luapool -n __luapool_has_word -l unordered -d 'Results as they come'
complete -c luapool -n __luapool_has_word -s f -l file -r -d 'The function that a file returns'
complete -c luapool -n __luapool_has_word -l text -d 'reduce: lines stay strings'
complete -c luapool -n __luapool_has_word -l halt -x -a 'never now,fail=1 soon,fail=1 now,success=1' -d 'When to end early'
complete -c luapool -n __luapool_has_word -l joblog -r -d 'A line for each item that is done'
complete -c luapool -n __luapool_has_word -l resume -d 'Skip what the job log has'
complete -c luapool -n __luapool_has_word -l resume-failed -d 'But not what failed there'
complete -c luapool -n __luapool_has_word -l cmd -x -d 'Run a shell command for each item'
complete -c luapool -n __luapool_has_word -s u -l ungroup -d 'Output of commands as it comes'
complete -c luapool -n __luapool_has_word -l tag -d 'The item before each line of output'
complete -c luapool -n __luapool_has_word -s C -l colsep -x -d 'Columns of a line are its parts'
complete -c luapool -n __luapool_has_word -s N -l max-args -x -d 'So many lines are one item'
complete -c luapool -n __luapool_has_word -l dry-run -d 'Print the commands, run nothing'
complete -c luapool -n __luapool_has_word -l shell -r -d 'The shell that runs commands'
