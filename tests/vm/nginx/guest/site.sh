# SPDX-License-Identifier: Apache-2.0
# An nginx that somebody runs already: HTTPS on port 443, with a log of its own, and files of known content.
set -eu
mkdir -p /srv/www
dd if=/dev/urandom of=/srv/www/small bs=20k count=1 2>/dev/null
dd if=/dev/urandom of=/srv/www/large bs=1M count=4 2>/dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=site \
  -addext subjectAltName=DNS:site -keyout /etc/nginx/site.key -out /etc/nginx/site.pem 2>/dev/null
rm -f /etc/nginx/sites-enabled/default
cat >/etc/nginx/sites-enabled/site <<'X'
server {
    listen 443 ssl;
    server_name site;
    ssl_certificate site.pem;
    ssl_certificate_key site.key;
    root /srv/www;
}
X
systemctl enable nginx
systemctl restart nginx
