#!/usr/bin/env bash
# A polling client in curl: curl.sh URL QUERY SECONDS prints {"status":…,"page":…} or {"failure":…} a
# line. curl keeps the ETag itself; a page counts when curl says that it is whole.
url=$1 query=$2 pause=$3 after=earliest
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
while :; do
    if status=$(curl -s --noproxy '*' --max-time 10 -o "$folder/page" -w '%{http_code}' \
        --etag-save "$folder/new" --etag-compare "$folder/etag" "$url?after=$after$query"); then
        case $status in
            200)
                jq -c '{status: 200, page: {ids: [.messages[].id], gap}}' "$folder/page"
                after=$(jq -r .next "$folder/page")
                mv "$folder/new" "$folder/etag" # empty if there is none
                ;;
            304) echo '{"status":304}' ;;
            *) echo "{\"failure\":\"$status\"}" ;;
        esac
    else
        echo '{"failure":"cut"}'
    fi
    sleep "$pause"
done
