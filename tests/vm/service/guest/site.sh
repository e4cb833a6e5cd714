# SPDX-License-Identifier: Apache-2.0
# A lighttpd in Debian's layout, with TLS on port 443 and two files, and an nginx that serves the same on 8443. Without the
# Perl scripts of Debian's own lighttpd.conf, which take ten seconds a start where the machine is emulated.
set -e
systemctl disable --now nginx 2>/dev/null
mkdir -p /root/pki
cd /root/pki
new="openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2"
$new -subj /CN=test-ca -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem
$new -subj /CN=files.test -addext subjectAltName=DNS:files.test -addext basicConstraints=critical,CA:FALSE \
  -CA ca.pem -CAkey ca.key -keyout key.pem -out cert.pem
cat key.pem cert.pem >/etc/lighttpd/server.pem
chmod 600 /etc/lighttpd/server.pem
cp ca.pem /etc/ssl/files-ca.pem
chmod 644 /etc/ssl/files-ca.pem
head -c 300000 /dev/urandom >/var/www/html/probe.bin
head -c 8000000 /dev/urandom >/var/www/html/big.bin
echo '127.0.0.1 files.test' >>/etc/hosts
rm -f /etc/lighttpd/conf-enabled/*
cat >/etc/lighttpd/lighttpd.conf <<'END'
server.modules = ("mod_openssl")
server.document-root = "/var/www/html"
server.port = 80
server.username = "www-data"
server.groupname = "www-data"
server.errorlog = "/var/log/lighttpd/error.log"
ssl.pemfile = "/etc/lighttpd/server.pem"
ssl.openssl.ssl-conf-cmd = ("MinProtocol" => "TLSv1.2")
$SERVER["socket"] == "0.0.0.0:443" { ssl.engine = "enable" }
include "/etc/lighttpd/conf-enabled/*.conf"
END
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
until ss -Htln 'sport = :443' | grep -q .; do sleep 0.5; done
