#!/usr/bin/env bash
# A polling client in curl: curl.sh URL QUERY SECONDS. Prints {"status":…,"page":…} or {"failure":…}, one
# per line. curl keeps the ETag itself. A page counts only if curl received all of it.
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
                mv "$folder/new" "$folder/etag" # empty if the answer has no ETag
                ;;
            304) echo '{"status":304}' ;;
            *) echo "{\"failure\":\"$status\"}" ;;
        esac
    else
        echo '{"failure":"cut"}'
    fi
    sleep "$pause"
done
