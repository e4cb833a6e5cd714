# SPDX-License-Identifier: Apache-2.0
# A lighttpd as Debian configures it, with TLS on port 443 and two files, and an nginx that serves the same on 8443.
set -e
systemctl disable --now nginx
mkdir -p /root/pki
cd /root/pki
new="openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2"
$new -subj /CN=test-ca -keyout ca.key -out ca.pem 2>/dev/null
$new -subj /CN=files.test -addext subjectAltName=DNS:files.test -addext basicConstraints=critical,CA:FALSE \
  -CA ca.pem -CAkey ca.key -keyout key.pem -out cert.pem 2>/dev/null
cat key.pem cert.pem >/etc/lighttpd/server.pem
chmod 600 /etc/lighttpd/server.pem
cp ca.pem /etc/ssl/files-ca.pem
chmod 644 /etc/ssl/files-ca.pem
head -c 300000 /dev/urandom >/var/www/html/probe.bin
head -c 8000000 /dev/urandom >/var/www/html/big.bin
echo '127.0.0.1 files.test' >>/etc/hosts
lighty-enable-mod openssl >/dev/null
cat >/etc/nginx/conf.d/site.conf <<'END'
server {
  listen 8443 ssl;
  ssl_certificate /root/pki/cert.pem;
  ssl_certificate_key /root/pki/key.pem;
  root /var/www/html;
}
END
rm -f /etc/nginx/sites-enabled/default
systemctl unmask lighttpd
systemctl start lighttpd
