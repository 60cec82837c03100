# Removes everything that one test process has started or written: `cleanup DIRECTORY [wait]`.
#
# With `wait` it first waits for the end of its standard input. Only the test process holds the other end, so this
# is the end of the test process, whatever its cause. The script may run twice concurrently on one directory.
trap '' HUP INT TERM
directory=$1
if [ "${2:-}" = wait ]; then cat >/dev/null; fi

# A process and its descendants. A stopped process cannot fork.
tree() {
    kill -STOP "$1" 2>/dev/null
    for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do tree "$child"; done
    echo "$1"
}

for record in "$directory"/*/*.process; do
    read -r pid started <"$record" 2>/dev/null || continue
    # The process id may have been reused; the start time shows whether it was.
    if [ "$(sed 's/.*) //' /proc/"$pid"/stat 2>/dev/null | cut -d' ' -f20)" = "$started" ]; then
        # shellcheck disable=SC2046 # a list of numbers
        kill -KILL $(tree "$pid") 2>/dev/null
    fi
done

for record in "$directory"/*/*.container; do
    read -r container <"$record" 2>/dev/null || continue
    docker rm --force --volumes "$container" >/dev/null 2>&1
done

# Projects of Docker Compose, whose parts have a label with its name.
for record in "$directory"/*/*.project; do
    read -r project <"$record" 2>/dev/null || continue
    label=label=com.docker.compose.project=$project
    # shellcheck disable=SC2046 # lists of names
    {
        docker rm --force --volumes $(docker ps --all --quiet --filter "$label")
        docker network rm $(docker network ls --quiet --filter "$label")
        docker volume rm $(docker volume ls --quiet --filter "$label")
    } >/dev/null 2>&1
done

# After the containers in it and those made of it, which Docker may still be removing.
gone() {
    tries=0
    while docker "$1" inspect "$2" >/dev/null 2>&1 && [ "$tries" -lt 100 ]; do
        tries=$((tries + 1))
        docker "$1" rm "$2" >/dev/null 2>&1 || sleep 0.5
    done
}

for record in "$directory"/*/*.network; do
    read -r network <"$record" 2>/dev/null || continue
    gone network "$network"
done
for record in "$directory"/*/*.image; do
    read -r image <"$record" 2>/dev/null || continue
    gone image "$image"
done

# A server that is shutting down may still write.
tries=0
until rm -rf "$directory" 2>/dev/null || [ "$tries" -ge 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
